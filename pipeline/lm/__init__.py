"""What the language-model stages share: nlu, sft, dpo, lm_compare and mtbench."""
