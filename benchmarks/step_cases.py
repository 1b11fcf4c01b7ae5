"""What `our_step.py` and `torch_step.py` both build: heads, queue, prototypes and crops.

Needs the standard library only. Heads are small, so that the encoder is most of a step.
"""

HIDDEN, EMBEDDING, QUEUE, PROTOTYPES, DINO_OUTPUTS = 512, 128, 4096, 512, 2048
LOCAL_VIEWS, LOCAL_SIZE = 6, 96  # beside two views of 224 pixels

_MULTI_CROP = {"num_local_views": LOCAL_VIEWS, "local_image_size": LOCAL_SIZE}

# Options of this package beside those that every case has.
OURS: dict[str, dict] = {
    "simclr": {
        "num_proj_layers": 2,
        "proj_hidden_dim": HIDDEN,
        "proj_out_dim": EMBEDDING,
    },
    "moco": {
        "batch_norm_splits": 1,  # as the peer does on one device; the method's own default is 8
        "num_proj_layers": 2,
        "proj_hidden_dim": HIDDEN,
        "proj_out_dim": EMBEDDING,
        "queue_size": QUEUE,
    },
    "swav": {
        "proj_hidden_dim": HIDDEN,
        "proj_out_dim": EMBEDDING,
        "num_prototypes": PROTOTYPES,
        **_MULTI_CROP,
    },
    "dino": {
        "num_proj_layers": 3,
        "proj_hidden_dim": HIDDEN,
        "proj_out_dim": 64,
        "num_prototypes": DINO_OUTPUTS,
        **_MULTI_CROP,
    },
}
