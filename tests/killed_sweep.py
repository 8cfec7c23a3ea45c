"""A sweep with a store, in a process of its own that may be killed: run by test_gpu.

``python tests/killed_sweep.py DEVICE STORE RESULT``; it says "ready" when the model is there.
"""

import sys

import icl_locate as icl


def sweep(device, store):
    """The embedded model, scored and with answers of its own, a unit a prompt."""
    model = icl.load_model(device=device)
    print("ready", flush=True)
    return icl.sweep(
        model, "pseudo-translation", n_queries=8, seeds=[0, 1], n_shots=3, max_new_tokens=8,
        batch_size=1, store=store,
    )  # fmt: skip


if __name__ == "__main__":
    sweep(sys.argv[1], sys.argv[2]).save(sys.argv[3])
