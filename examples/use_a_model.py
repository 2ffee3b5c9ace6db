"""Apply a model in Python: `python examples/use_a_model.py MODEL SCAN RESULT`."""

import sys

import nibabel as nib

import fedmr

name, scan, result = sys.argv[1:]
model = fedmr.load_model(name)
print(model.card["task"]["network"]["name"], "x", model.card["scale"])

image = nib.load(scan)
print("from", image.shape)
finer = fedmr.infer(model, image)  # in memory; fedmr.infer(name, scan, result) goes from file to file
print("to", finer.shape)
nib.save(finer, result)
