# rayvldd in a container, at the versions of constraints.txt. From the root of a clone:
#
#   docker build -t rayvldd .
#   docker run --rm -v "$PWD":/data rayvldd sweep quickstart
#   docker run --rm --gpus all --shm-size 8g -v "$PWD":/data rayvldd sweep my_study.yaml
#
# The workspace is /data/rayvldd_workspace, so in the mounted folder. On Linux, add --user "$(id -u):$(id -g)", so that its files are
# yours. Ray keeps its object store in /dev/shm. Built for CPUs and GPUs alike: torch of the package registry brings CUDA, the
# machine brings the driver. For Kubernetes: clusters/kuberay.Dockerfile. Not built in tests.
FROM python:3.11-slim

WORKDIR /opt/rayvldd
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY rayvldd rayvldd
COPY search_spaces search_spaces
RUN pip install --no-cache-dir -c constraints.txt .
RUN useradd --create-home --uid 1000 rayvldd
# Caches of hubs and of matplotlib, for any --user.
ENV HOME=/tmp/home
RUN mkdir -m 777 /tmp/home
USER rayvldd
WORKDIR /data
ENTRYPOINT ["rayvldd"]
CMD ["--help"]
