"""Find the task-recognition layer of the embedded model, step by step.

Run it with ``python examples/embedded_model.py``; it takes about ten seconds on two cores.
"""

import icl_locate as icl

model = icl.load_model()  # the model that comes with the package
task = icl.load_task("pseudo-translation")
print("instruction:", task.template.instruction)
print("an example: ", task.train[0].source, "->", task.train[0].target)

# One mask by hand: hide the examples from layer 6 on, and let the model translate.
prompts = icl.build_prompts(
    model, task.test[:3], examples=task.train, n_shots=5, template=task.template, seed=0
)
mask = icl.ContextMask(hide={icl.Segment.EXAMPLES}, layers=icl.from_layer(6))
for answer, target in zip(
    icl.generate(model, prompts, mask, max_new_tokens=12), prompts.targets, strict=True
):
    print("answer:", answer, "| wanted:", target)

# All layers, two conditions, and the layer from which the context is no longer needed.
result = icl.sweep(
    model,
    task,
    conditions=["examples", "instructions+examples"],
    n_queries=24,
    seeds=[0, 1],
    max_new_tokens=12,
)
for found in icl.locate(result):
    print(found)
