#!/usr/bin/env bash
# Resources of a Google Cloud project for gcp_gpu.yaml: a network whose firewall admits one address by ssh, an account
# for the head that may only run machines, and the disk that outlives every cluster. By default, Ray would use
# the default network, with ssh open to the whole internet, and an account for the head that may write to every bucket.
#
#   clusters/gcp_project.sh YOUR-PROJECT us-central1-a $(curl -s https://checkip.amazonaws.com)
#
# Not run on Google Cloud: tests read its firewall rules.
set -euo pipefail
project=${1:?project} zone=${2:?zone} address=${3:?address that ssh may come from}
region=${zone%-*}
export CLOUDSDK_CORE_PROJECT=$project
head=rayvldd-head@$project.iam.gserviceaccount.com

gcloud services enable compute.googleapis.com iam.googleapis.com cloudresourcemanager.googleapis.com
gcloud compute networks create rayvldd --subnet-mode=custom
gcloud compute networks subnets create rayvldd --network=rayvldd --region="$region" --range=10.77.0.0/20
gcloud compute firewall-rules create rayvldd-ssh --network=rayvldd --allow=tcp:22 --source-ranges="$address/32"
gcloud compute firewall-rules create rayvldd-nodes --network=rayvldd --allow=all --source-tags=rayvldd --target-tags=rayvldd

# The head launches and ends workers: Ray's autoscaler runs there. Workers have no account at all.
gcloud iam service-accounts create rayvldd-head --display-name="Head of rayvldd clusters"
gcloud projects add-iam-policy-binding "$project" --member="serviceAccount:$head" --role=roles/compute.instanceAdmin.v1

# `ray up` creates its own account with rights to all buckets, which no node of this cluster uses. It can be kept.
gcloud iam service-accounts create ray-autoscaler-sa-v1 --display-name="Made by Ray, not used"
gcloud iam service-accounts disable "ray-autoscaler-sa-v1@$project.iam.gserviceaccount.com"

gcloud compute disks create rayvldd --zone="$zone" --size=200GB --type=pd-balanced
