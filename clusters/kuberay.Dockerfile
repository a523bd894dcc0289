# The image that every pod of kuberay.yaml runs: this checkout, at the versions of constraints.txt. From the root of a clone:
#
#   docker build -f clusters/kuberay.Dockerfile -t YOUR-REGISTRY/rayvldd:0.2.0 . && docker push YOUR-REGISTRY/rayvldd:0.2.0
#
# Built for CPUs and GPUs alike: torch of the package registry brings CUDA, the node brings the driver. Not built in tests.
FROM python:3.11-slim

# KubeRay's probes call wget.
RUN apt-get update && apt-get install -y --no-install-recommends wget && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/rayvldd
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY rayvldd rayvldd
COPY search_spaces search_spaces
RUN pip install --no-cache-dir -c constraints.txt '.[cluster]'
RUN useradd --create-home --uid 1000 ray
USER ray
