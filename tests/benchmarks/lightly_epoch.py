"""`python lightly_epoch.py IMAGES OUT BATCH FEW MORE`, in an environment with lightly-train: print seconds per epoch.

The difference between a run of FEW epochs and one of MORE is the time of the epochs alone.
"""

import sys
import time


def seconds(images: str, out: str, batch: int, epochs: int) -> float:
    """Return the seconds of a whole run."""
    import lightly_train

    start = time.perf_counter()
    lightly_train.pretrain(
        out=out,
        data=images,
        model="torchvision/resnet18",
        method="distillationv1",
        method_args={"teacher": "dinov2/_vittest14"},
        epochs=epochs,
        batch_size=batch,
        num_workers=2,
        accelerator="cpu",
        devices=1,
        precision="bf16-mixed",
        overwrite=True,
    )
    return time.perf_counter() - start


if __name__ == "__main__":
    images, out = sys.argv[1:3]
    batch, few, more = map(int, sys.argv[3:])
    took = [seconds(images, out, batch, epochs) for epochs in (1, few, more)][1:]  # the first is warm-up
    print((took[1] - took[0]) / (more - few))
