"""nano3: from a folder of text files to a chat model, small enough for a CPU and larger by configuration only.

```
app.py            the commands: data prep pretrain|sft|rl, pretrain, train, sft, eval
data/             sources, tokenizer, Megatron shards, blends, instructions, and plans that survive a kill
model/            a Llama in torch, the training loop, checkpoints, evaluation
stage0_pretrain/  data_prep/prepare.py, train.py
stage1_sft/       data_prep/prepare.py, train.py
stage2_rl/        data_prep/prepare.py, rewards.py
stage3_eval/      evaluate.py
```
Beside each script, `config/default.yaml` and `config/tiny.yaml`.
"""
