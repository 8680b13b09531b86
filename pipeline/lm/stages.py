"""The stages by name."""

from pipeline.lm.classification import train_classifier
from pipeline.lm.instruction import train_instructions
from pipeline.lm.preference import train_preferences

TRAINERS = {"nlu": train_classifier, "sft": train_instructions, "dpo": train_preferences}
"""Functions (config, directory, console, resume=, export_lora=) -> what ``results.json`` holds."""
