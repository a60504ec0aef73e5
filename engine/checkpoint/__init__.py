"""Checkpoints: the variables of a job, their optimizer's slots, and what else it needs to go on, in safetensors.

    step-1200/
        model-00001-of-00002.safetensors ...   whole tensors, as other programs load them
        model.safetensors.index.json           which tensor is in which file
        optim-00001-of-00001.safetensors ...   optimizer slots, with an index of their own
        NAME.bin                               blobs, such as a server's table of applied pushes
        manifest.json                          step, facts of the job, length and CRC32 of every file

Tensors are written and read by boxes, so that no process holds the model whole, and the machines of the reader may be
others than the writer's. A checkpoint is complete or it is not there.
"""

from rainshed.engine.checkpoint.folder import CheckpointFolder, checkpoints
from rainshed.engine.checkpoint.format import Kind, TensorSpec
from rainshed.engine.checkpoint.reader import CheckpointReader, compare, latest
from rainshed.engine.checkpoint.writer import CheckpointWriter, write_checkpoint

__all__ = [
    "CheckpointFolder",
    "CheckpointReader",
    "CheckpointWriter",
    "Kind",
    "TensorSpec",
    "checkpoints",
    "compare",
    "latest",
    "write_checkpoint",
]
