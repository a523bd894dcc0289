"""Attach the persistent volume to the head node on AWS and mount it.

The head node runs it as:

    python -m rayvldd.clusters.kept_volume rayvldd /mnt/rayvldd --instance i-… --region us-east-1
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from rayvldd.errors import RayvlddError

_DEVICE = "/dev/sdf"
"""Device name for EC2; the kernel names the disk by the id of the volume."""

_WAIT_S = 180.0
"""Time limit in seconds; a terminated head node holds the volume for about another minute."""

_POLL_S = 2.0


def attach_volume(ec2: Any, name: str, instance: str, wait_s: float = _WAIT_S) -> str:
    """Attach the volume with a name, unless it is attached already; wait for completion and return its id.

    Args:
        ec2: An EC2 client of boto3.
        name: Value of the volume's tag ``Name``.
        instance: Id of the machine to attach it to.
        wait_s: Time limit in seconds for another machine to release it, and for attaching.

    Raises:
        RayvlddError: when there is not exactly one volume with the name, or another machine does not release it.
    """
    volumes = ec2.describe_volumes(Filters=[{"Name": "tag:Name", "Values": [name]}])["Volumes"]
    if len(volumes) != 1:
        raise RayvlddError(
            f"volume {name}: found {len(volumes)} of this name; allowed: one",
            next_command="the deploy line at the top of clusters/aws_account.yaml, or delete those that are not it",
        )
    volume, requested = volumes[0], False
    end = time.monotonic() + wait_s
    while True:
        holders = {entry["InstanceId"]: entry["State"] for entry in volume.get("Attachments", [])}
        if holders.get(instance) == "attached":
            return str(volume["VolumeId"])
        if volume["State"] == "available" and not requested:
            ec2.attach_volume(VolumeId=volume["VolumeId"], InstanceId=instance, Device=_DEVICE)
            requested = True
        elif time.monotonic() > end:
            holder = ", ".join(holders) or "no instance"
            raise RayvlddError(
                f"volume {volume['VolumeId']}: still {volume['State']} by {holder} after {wait_s:.0f} s",
                next_command="ray down of the other cluster, then ray up of this one",
            )
        else:
            time.sleep(min(_POLL_S, wait_s / 10))
        volume = ec2.describe_volumes(VolumeIds=[volume["VolumeId"]])["Volumes"][0]


def mount_volume(volume: str, folder: Path) -> None:
    """Mount an attached volume unless it is mounted already; create a file system if it has none.

    Args:
        volume: Id of the volume, by which the kernel names the disk of a Nitro machine.
        folder: Mount point; the caller becomes its owner.

    Raises:
        RayvlddError: when the kernel does not see the disk.
        CalledProcessError: when it cannot be formatted or mounted.
    """
    if folder.is_mount():
        return
    disk = Path("/dev/disk/by-id", f"nvme-Amazon_Elastic_Block_Store_{volume.replace('-', '')}")
    for _ in range(30):
        if disk.exists():
            break
        time.sleep(_POLL_S)
    else:
        raise RayvlddError(f"volume {volume}: attached, but {disk} does not appear", next_command="ray up again")
    # blkid returns 2 if there is no file system, and another code if it could not read the device.
    if subprocess.run(["sudo", "blkid", "-p", str(disk)], stdout=subprocess.DEVNULL).returncode == 2:
        subprocess.run(["sudo", "mkfs.ext4", "-q", str(disk)], check=True)
    subprocess.run(["sudo", "mkdir", "-p", str(folder)], check=True)
    subprocess.run(["sudo", "mount", str(disk), str(folder)], check=True)
    subprocess.run(["sudo", "sh", "-c", f'chown "$SUDO_UID:$SUDO_GID" {folder}'], check=True)


def main(arguments: list[str] | None = None) -> None:
    """Attach and mount the volume; on failure, print the reason and exit with 1."""
    parser = argparse.ArgumentParser(prog="python -m rayvldd.clusters.kept_volume", description=__doc__)
    parser.add_argument("name", help="value of the volume's tag Name")
    parser.add_argument("folder", type=Path, help="where to mount it")
    parser.add_argument("--instance", required=True, help="id of this machine")
    parser.add_argument("--region", required=True)
    values = parser.parse_args(arguments)
    try:
        mount_volume(attach_volume(boto3.client("ec2", values.region), values.name, values.instance), values.folder)
    except (RayvlddError, BotoCoreError, ClientError, subprocess.CalledProcessError) as error:
        sys.exit(f"Error: {error}")


if __name__ == "__main__":
    main()
