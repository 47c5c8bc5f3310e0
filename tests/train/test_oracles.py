"""Losses and all gradients equal those of TRL's own trainers, from the same weights: theirs on padded rows of a
transformers model, ours on one packed axis. None of TRL's arithmetic is written again here.

Axes: B replies, L places.
"""

import math
from collections import defaultdict
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from octavo.core.sample import sample
from octavo.nn.context import PackedContext
from octavo.nn.divergence import Teacher, weighted_divergence
from octavo.nn.head import tell
from octavo.train.algorithms import ClippedPolicy, Preference, TowardsTeacher
from octavo.train.batch import Batch, pack
from octavo.train.step import CrossEntropy, Learner
from tests.train.minis import CONFIG, VOCABULARY, tiny

pytest.importorskip("trl", reason="the package trl, the oracle of losses, is not installed")
pytest.importorskip("datasets", reason="the package datasets, which TRL's trainers import, is not installed")
pytestmark = pytest.mark.slow  # TRL takes seconds to import

PROMPTS, REPLIES = (3, 5, 2, 4), (6, 9, 4, 7)  # tokens of each
FORCED = {(1, 2), (1, 3), (3, 0)}  # reply, place: tokens that a tool wrote, in the midst of a reply
ADVANTAGES = (1.0, -0.5, 0.7, -1.2)


class Rows(NamedTuple):
    """What TRL reads: prompts padded on the left, replies on the right."""

    prompt_BL: Tensor
    reply_BL: Tensor
    prompts_BL: Tensor  # 1 where there is a token
    replies_BL: Tensor
    said_BL: Tensor  # 1 where the model wrote it
    old_BL: Tensor


def rows(seed: int = 0, *, spread: float = 0.3) -> Rows:
    draw = torch.Generator().manual_seed(seed)
    prompt_BL, reply_BL = (torch.randint(VOCABULARY, (4, max(n)), generator=draw) for n in (PROMPTS, REPLIES))
    prompts_BL = torch.stack([torch.arange(max(PROMPTS)) >= max(PROMPTS) - n for n in PROMPTS]).long()
    replies_BL = torch.stack([torch.arange(max(REPLIES)) < n for n in REPLIES]).long()
    said_BL = replies_BL.clone()
    for place in FORCED:
        said_BL[place] = 0
    made = Rows(prompt_BL, reply_BL, prompts_BL, replies_BL, said_BL, torch.zeros(reply_BL.shape))
    one, model = packed(made), tiny()
    with torch.no_grad():
        hidden_ND = model(one.tokens_T, PackedContext(one.lengths))[one.rows_N]
        now_N = tell(hidden_ND, model.head_weight, one.targets_N).logprobs_N
    old_BL = made.old_BL
    old_BL[said_BL > 0] = now_N + spread * torch.randn(len(now_N), generator=draw)
    return made


def packed(made: Rows, *, by_reply: bool = False) -> Batch:
    """The same as samples.   by_reply: each counts the same, however long"""
    found = []
    for i, (before, length) in enumerate(zip(PROMPTS, REPLIES, strict=True)):
        tokens = made.prompt_BL[i, -before:].tolist() + made.reply_BL[i, :length].tolist()
        said = made.said_BL[i, :length].double()
        weights = [0.0] * before + (said / said.sum() if by_reply else said).tolist()
        old = [math.nan] * before + made.old_BL[i, :length].tolist()
        found.append(sample(tokens, weights, logprobs=old, advantages=[ADVANTAGES[i]] * len(tokens)))
    return pack(found)


def official(seed: int = 0) -> nn.Module:
    """tiny(seed) in transformers, with the head that TRL's trainers put on it."""
    from transformers import Qwen3Config, Qwen3ForCausalLM
    from trl.trainer.utils import add_fused_lm_head

    model, ours = Qwen3ForCausalLM(Qwen3Config(**CONFIG)), tiny(seed)
    model.load_state_dict({**ours.state_dict(), "lm_head.weight": ours.head_weight.detach()})
    add_fused_lm_head(model, outputs=("log_probs", "entropy", "mean_logits", "is_top1"))
    return model.train()


def trainer(kind: type, model: nn.Module, **fields: Any) -> Any:
    """One of TRL's trainers with what its loss looks at, and nothing else."""
    alone = SimpleNamespace(
        device="cpu", num_processes=1, is_main_process=False, sync_gradients=True, parallelism_config=None,
        gather=lambda x: x, gather_for_metrics=lambda x: x, reduce=lambda x, reduction: x, unwrap_model=lambda x: x,
        autocast=lambda: torch.autocast("cpu", enabled=False),
    )  # fmt: skip
    made = kind.__new__(kind)
    made.__dict__ |= {
        "accelerator": alone, "model": model, "aux_loss_enabled": False, "_total_train_tokens": 0, "_tp_size": 1,
        "_metrics": {"train": defaultdict(list), "eval": defaultdict(list)}, **fields,
    }  # fmt: skip
    return made


def equal(theirs: Tensor, model: nn.Module, algorithm: Any, one: Batch, *, scale: float, teacher: Any = None) -> None:
    """The losses, and the gradients of all parameters, to 1e-5; in both of our ways of computing."""
    theirs.backward()
    wanted = {name: parameter.grad for name, parameter in model.named_parameters()}
    for plain in (False, True):
        learner = Learner(tiny(), algorithm, teacher=teacher)
        if plain:
            learner.model.requires_grad_(True).model.norm.weight.requires_grad_(False)  # autograd does the work
        assert (learner.plain is not None) == plain
        loss, terms = learner(one, scale)
        loss.backward()
        shown = loss if terms.loss is None else terms.loss
        assert abs(float(shown.detach()) - float(theirs.detach())) < 1e-5
        for name, parameter in learner.model.named_parameters():
            if parameter.requires_grad:
                torch.testing.assert_close(parameter.grad, wanted[name], atol=1e-5, rtol=1e-4, msg=name)
                assert float(wanted[name].abs().max()) > 0, name


POLICIES = {  # TRL's settings -> ours, and whether each reply counts the same
    "grpo": ({"loss_type": "grpo", "epsilon_high": 0.2}, ClippedPolicy(low=0.2, high=0.2), True),
    "grpo with kl": ({"loss_type": "grpo", "epsilon_high": 0.2, "beta": 0.04},
                     ClippedPolicy(low=0.2, high=0.2, drift=0.04), True),
    "bnpo": ({"loss_type": "bnpo", "epsilon_high": 0.28}, ClippedPolicy(), False),
    "dapo": ({"loss_type": "dapo", "epsilon_high": 0.28}, ClippedPolicy(), False),
    "dr_grpo": ({"loss_type": "dr_grpo", "epsilon_high": 0.2}, ClippedPolicy(low=0.2, high=0.2), False),
    "gspo": ({"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon_low": 3e-4, "epsilon_high": 4e-4},
             ClippedPolicy(low=3e-4, high=4e-4, by_reply=True), True),
    "gspo, wide": ({"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon_high": 0.28},
                   ClippedPolicy(by_reply=True), True),
}  # fmt: skip


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("seed", [0, 1])
def test_policy_losses_equal_trls(name: str, seed: int):
    from trl.trainer.grpo_trainer import GRPOTrainer

    given, algorithm, by_reply = POLICIES[name]
    made = rows(seed)
    settings = {"beta": 0.0, "epsilon_low": 0.2, "importance_sampling_level": "token", **given}
    args = SimpleNamespace(use_bias_correction_kl=False, delta=None, steps_per_generation=1)
    theirs = trainer(
        GRPOTrainer, model := official(), args=args, top_entropy_quantile=1.0, off_policy_mask_threshold=None,
        use_vllm=False, vllm_importance_sampling_correction=False, current_gradient_accumulation_steps=1,
        max_completion_length=12, _entropy_bonus_enabled=False, **settings,
    )  # fmt: skip
    loss = theirs._compute_loss(model, {
        "prompt_ids": made.prompt_BL, "prompt_mask": made.prompts_BL, "completion_ids": made.reply_BL,
        "completion_mask": made.replies_BL, "tool_mask": made.said_BL, "advantages": torch.tensor(ADVANTAGES),
        "old_per_token_logps": made.old_BL, "ref_per_token_logps": made.old_BL,
        "num_items_in_batch": made.said_BL.sum(),
    })  # fmt: skip
    one = packed(made, by_reply=by_reply)
    scale = 4 * 12.0 if name == "dr_grpo" else float(one.weights_N.sum())
    equal(loss, model, algorithm, one, scale=scale)


def whole(made: Rows) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, where there are any, and where the model wrote them; padded on both sides."""
    said_BL = torch.cat((torch.zeros_like(made.prompts_BL), made.said_BL), 1)
    return (torch.cat((made.prompt_BL, made.reply_BL), 1), torch.cat((made.prompts_BL, made.replies_BL), 1), said_BL)


def test_supervised_losses_equal_trls():
    from trl.trainer.sft_trainer import SFTTrainer

    made = rows()
    tokens_BL, there_BL, said_BL = whole(made)
    args = SimpleNamespace(loss_type="nll", average_tokens_across_devices=False)
    theirs = trainer(SFTTrainer, model := official(), args=args, compute_loss_func=None, label_smoother=None)
    inputs = {"input_ids": tokens_BL, "attention_mask": there_BL, "labels": tokens_BL.masked_fill(said_BL == 0, -100)}
    one = packed(made)
    equal(theirs.compute_loss(model, inputs), model, CrossEntropy(), one, scale=float(one.weights_N.sum()))


def test_preference_losses_equal_trls():
    """TRL wants all chosen replies first; our pairs are neighbours."""
    from trl.trainer.dpo_trainer import DPOTrainer

    made = rows()
    tokens_BL, there_BL, said_BL = (x[[0, 2, 1, 3]] for x in whole(made))
    before_B = (made.old_BL * made.said_BL).sum(1)
    theirs = trainer(
        DPOTrainer, model := official(), ld_alpha=None, precompute_ref_logps=True, f_divergence_type="reverse_kl",
        loss_types=["sigmoid"], loss_weights=[1.0], beta=0.3, label_smoothing=0.0, use_weighting=False,
    )  # fmt: skip
    loss = theirs._compute_loss(model, {
        "input_ids": tokens_BL, "attention_mask": there_BL, "completion_mask": said_BL,
        "ref_chosen_logps": before_B[0::2], "ref_rejected_logps": before_B[1::2],
    }, return_outputs=False)  # fmt: skip
    one = packed(made)
    equal(loss, model, Preference(beta=0.3, pairs=2), one, scale=float(one.weights_N.sum()))


def test_on_policy_distillation_equals_trls():
    from trl.experimental.gkd.gkd_trainer import GKDTrainer

    made = rows()
    tokens_BL, there_BL, said_BL = whole(made)
    model, teacher = official(), official(seed=5)
    logits, wanted = (m(input_ids=tokens_BL, attention_mask=there_BL).logits[:, :-1] for m in (model, teacher))
    labels_BL = tokens_BL.masked_fill(said_BL == 0, -100)[:, 1:]
    loss = GKDTrainer.generalized_jsd_loss(logits, wanted.detach(), labels_BL, beta=1.0)
    one = packed(made)
    equal(loss, model, TowardsTeacher(), one, scale=float(one.weights_N.sum()), teacher=tiny(seed=5))


@pytest.mark.parametrize("reverse", [True, False])
def test_divergences_equal_trls(reverse: bool):
    from trl.experimental.gkd.gkd_trainer import GKDTrainer

    torch.manual_seed(1)
    hidden_ND, head_VD = torch.randn(50, 16, requires_grad=True), torch.randn(VOCABULARY, 16, requires_grad=True)
    teacher = Teacher(torch.randn(50, 24), torch.randn(VOCABULARY, 24))
    logits, wanted = hidden_ND @ head_VD.T, teacher.hidden_NE @ teacher.head_VE.T
    labels = torch.zeros(1, 50).long()
    theirs = GKDTrainer.generalized_jsd_loss(logits[None], wanted[None], labels, beta=float(reverse))
    ours = weighted_divergence(hidden_ND, head_VD, teacher, torch.full((50,), 1 / 50), reverse=reverse)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    wanted = torch.autograd.grad(theirs, (hidden_ND, head_VD))
    for a, b in zip(torch.autograd.grad(ours, (hidden_ND, head_VD)), wanted, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
