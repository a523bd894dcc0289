"""Attach the volume that outlives every cluster to the head on AWS, and mount it. Run by the head itself:

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
"""What EC2 is asked for; the kernel names the disk by the volume's id."""

_WAIT_S = 180.0
"""A head that was just ended holds the volume for about a minute longer."""

_POLL_S = 2.0


def attach_volume(ec2: Any, name: str, instance: str, wait_s: float = _WAIT_S) -> str:
    """Attach the one volume of a name, wait until it is, and return its id; one that is attached already stays.

    Args:
        ec2: An EC2 client of boto3.
        name: Value of the volume's tag ``Name``.
        instance: Id of the machine to attach it to.
        wait_s: Seconds that another machine has to let go of it, and that attaching may take.

    Raises:
        RayvlddError: when there is not exactly one volume of the name, or it stays with another machine.
    """
    volumes = ec2.describe_volumes(Filters=[{"Name": "tag:Name", "Values": [name]}])["Volumes"]
    if len(volumes) != 1:
        raise RayvlddError(
            f"volume {name}: found {len(volumes)} of this name; allowed: one",
            next_command="the deploy line at the top of clusters/aws_account.yaml, or delete those that are not it",
        )
    volume, asked = volumes[0], False
    end = time.monotonic() + wait_s
    while True:
        holders = {entry["InstanceId"]: entry["State"] for entry in volume.get("Attachments", [])}
        if holders.get(instance) == "attached":
            return str(volume["VolumeId"])
        if volume["State"] == "available" and not asked:
            ec2.attach_volume(VolumeId=volume["VolumeId"], InstanceId=instance, Device=_DEVICE)
            asked = True
        elif time.monotonic() > end:
            holder = ", ".join(holders) or "nobody"
            raise RayvlddError(
                f"volume {volume['VolumeId']}: still {volume['State']} by {holder} after {wait_s:.0f} s",
                next_command="ray down of the other cluster, then ray up of this one",
            )
        else:
            time.sleep(min(_POLL_S, wait_s / 10))
        volume = ec2.describe_volumes(VolumeIds=[volume["VolumeId"]])["Volumes"][0]


def mount_volume(volume: str, folder: Path) -> None:
    """Mount an attached volume, with a new file system if it never had one; one that is mounted already stays.

    Args:
        volume: Its id, by which the kernel names the disk of a Nitro machine.
        folder: Where to mount it; it belongs to the caller.

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
    # blkid answers 2 where it finds nothing at all, and another number where it could not look.
    if subprocess.run(["sudo", "blkid", "-p", str(disk)], stdout=subprocess.DEVNULL).returncode == 2:
        subprocess.run(["sudo", "mkfs.ext4", "-q", str(disk)], check=True)
    subprocess.run(["sudo", "mkdir", "-p", str(folder)], check=True)
    subprocess.run(["sudo", "mount", str(disk), str(folder)], check=True)
    subprocess.run(["sudo", "sh", "-c", f'chown "$SUDO_UID:$SUDO_GID" {folder}'], check=True)


def main(arguments: list[str] | None = None) -> None:
    """Attach and mount, or say why not and exit with 1."""
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
