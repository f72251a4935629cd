"""Muon: momentum, orthogonalised; for the weight matrices of hidden layers and nothing else.

All matrices of one shape are orthogonalised in one batch: on two CPU threads that takes less than
half the time of a loop, because each small matmul of a loop ends in a barrier between threads. Of
several ranks each orthogonalises a share (see `shares`); momentum and all other state every rank
keeps whole. Where a rank holds parts of the matrices (see `parts`), of the momentum too it keeps
its part, and the directions are put together to be orthogonalised.

Sources: Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/), Polar Express (Amsel
et al. 2025, arXiv 2505.16932), NorMuon (Li et al. 2025, arXiv 2510.05491), cautious weight decay
(Chen et al. 2025, arXiv 2510.12402); nanochat puts the four together in this order.

Shapes: N matrices of R rows and C columns; S is the smaller of R and C.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from torch import Tensor

from lmkit.errors import ConfigError
from lmkit.optim.eager import EagerOptimizer
from lmkit.optim.parts import as_part, held, is_part, piece_of, whole
from lmkit.optim.shares import gather, ranks, share_out

Coefficients = tuple[float, float, float]

# A step maps each singular value s to a s + b s^3 + c s^5.
# Newton-Schulz: one polynomial for every step, steepest at 0; ends within about 0.3 of 1.
NEWTON_SCHULZ: list[Coefficients] = [(3.4445, -4.7750, 2.0315)]
# Polar Express: the best polynomial for each step in turn; the last one serves all further steps.
POLAR_EXPRESS: list[Coefficients] = [
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
]
METHODS = {"polar_express": POLAR_EXPRESS, "newton_schulz": NEWTON_SCHULZ}
DTYPES = {"auto": None, "bfloat16": torch.bfloat16, "float32": torch.float32}
HEADROOM = 1.02  # bf16 rounding must not lift a singular value above 1, where the steps diverge
WARMUP_START = 0.85  # momentum at the first step of a momentum warm-up (modded-nanogpt, nanochat)
# Elements of one batch. On the CPU (4 MB in bf16) it stays in the cache, worth 1.2x at 6 layers of
# 384; elsewhere the limit only bounds memory.
CPU_BATCH, BATCH = 2**21, 2**26


class Muon(EagerOptimizer):
    """Step every matrix along the orthogonalised direction of its momentum.

    The rate is scaled by sqrt(max(1, rows / columns)) as in torch.optim.Muon. State per matrix, in
    fp32: `momentum` (the matrix's shape) and, with beta2, `second_moment` (its longer side).

    Args:
        params: matrices, or groups of them; anything but two dimensions is a ConfigError.
        lr: the step's size; each step changes a square matrix by lr in every singular direction.
        momentum: share of the past in the running mean of gradients, 0 to 1.
        momentum_warmup: steps over which momentum rises from 0.85 to its value; 0 for none.
        nesterov: look one step ahead along the momentum.
        beta2: share of the past in NorMuon's second moment, which evens out rows; 0 for none.
        weight_decay: decoupled decay; a step takes lr * weight_decay of a weight away.
        cautious: decay only weights that the step moves towards zero anyway.
        method: the polynomials that orthogonalise.
        iterations: how many of them.
        dtype: what to orthogonalise in; auto is bfloat16 where the hardware computes in it.
        shard: where torch.distributed has several ranks, each orthogonalises a share of the
            matrices and gets the others' updates from their ranks. All must step the same ones.
    """

    uncut = ("second_moment",)  # that of one row or column has its shape, and is whole on each rank

    def __init__(
        self,
        params: Any,
        lr: float = 0.02,
        momentum: float = 0.95,
        momentum_warmup: int = 0,
        nesterov: bool = True,
        beta2: float = 0.9,
        weight_decay: float = 0.0,
        cautious: bool = True,
        method: Literal["polar_express", "newton_schulz"] = "polar_express",
        iterations: int = 5,
        dtype: Literal["auto", "bfloat16", "float32"] = "auto",
        shard: bool = True,
    ) -> None:
        for name, value in (("momentum", momentum), ("beta2", beta2)):
            if not 0 <= value < 1:
                raise ConfigError(f"Muon's {name} is {value}", hint="it lies in [0, 1)")
        for name, value, least in (
            ("lr", lr, 0),
            ("weight_decay", weight_decay, 0),
            ("momentum_warmup", momentum_warmup, 0),
            ("iterations", iterations, 1),
        ):
            if value < least:
                raise ConfigError(f"Muon's {name} is {value}", hint=f"it is at least {least}")
        for name, word, words in (("method", method, METHODS), ("dtype", dtype, DTYPES)):
            if word not in words:
                raise ConfigError(f"Muon's {name} is {word!r}", hint=f"one of {', '.join(words)}")
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "momentum_warmup": momentum_warmup,
            "nesterov": nesterov,
            "beta2": beta2,
            "weight_decay": weight_decay,
            "cautious": cautious,
            "method": method,
            "iterations": iterations,
            "dtype": dtype,
            "shard": shard,
            "step": 0,
        }
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Take one more group; ConfigError names a parameter that is not a matrix."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        for i, p in enumerate(group["params"]):
            if p.ndim != 2:
                name = group["param_names"][i] if "param_names" in group else f"parameter {i}"
                raise ConfigError(
                    f"Muon takes matrices, and {name} has shape {tuple(p.shape)}",
                    hint="give it to another optimizer, such as torch.optim.AdamW",
                )

    def cost(self, p: Tensor) -> int:
        """What a step of a matrix takes, in proportion: multiplications of an iteration."""
        short, long = sorted(p.shape)
        return short * short * (2 * long + short)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every matrix that has a gradient.

        Raises:
            DistributedError: another rank is gone.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            group["step"] += 1
            matrices = [p for p in group["params"] if p.grad is not None]
            momentum = _momentum_now(group)
            for p in matrices:
                held(self._state(p, group)["momentum"]).lerp_(_grad(p), 1 - momentum)
            for p, update in self._updates(matrices, group, momentum):
                update = update.float()
                if beta2 := group["beta2"]:
                    even_out_(update, self.state[p]["second_moment"], beta2)
                _apply(p, update, group)
        return loss

    def _updates(
        self, matrices: list[Tensor], group: dict[str, Any], momentum: float
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Each matrix with its orthogonalised direction, in any order; the same on every rank."""
        rank, size = ranks() if group["shard"] else (0, 1)
        if size == 1 or not matrices:
            return self._orthogonal(matrices, matrices, group, momentum)
        shares = share_out([self.cost(p) for p in matrices], size)
        mine = [matrices[i] for i in shares[rank]]
        done = {id(p): update for p, update in self._orthogonal(mine, matrices, group, momentum)}
        shapes = [[matrices[i].shape for i in share] for share in shares]
        device = matrices[0].device
        like = torch.empty(0, dtype=_dtype(group["dtype"], device), device=device)
        updates = gather([done[id(p)] for p in mine], shapes, like)
        return zip((matrices[i] for share in shares for i in share), updates, strict=True)

    def _orthogonal(
        self,
        mine: list[Tensor],
        matrices: list[Tensor],
        group: dict[str, Any],
        momentum: float,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The same of `mine` alone, those of one shape together; all ranks have `matrices`."""
        gathered = self._gathered(mine, matrices, group, momentum)
        for batch in _batches(mine):
            dtype, device = _dtype(group["dtype"], batch[0].device), batch[0].device
            update_NRC = torch.empty(len(batch), *batch[0].shape, dtype=dtype, device=device)
            for p, direction in zip(batch, update_NRC.unbind(), strict=True):
                if p in gathered:
                    direction.copy_(gathered.pop(p))
                else:
                    direction.copy_(self._direction(p, group, momentum))
            update_NRC = orthogonalize(update_NRC, METHODS[group["method"]], group["iterations"])
            yield from zip(batch, update_NRC.unbind(), strict=True)

    def _direction(self, p: Tensor, group: dict[str, Any], momentum: float) -> Tensor:
        """Where the step of a matrix goes, or of what this rank holds of it."""
        mean = held(self.state[p]["momentum"])
        return _grad(p).lerp(mean, momentum) if group["nesterov"] else mean

    def _gathered(
        self,
        mine: list[Tensor],
        matrices: list[Tensor],
        group: dict[str, Any],
        momentum: float,
    ) -> dict[Tensor, Tensor]:
        """The directions of `mine` put together, of those that lie in parts; in these a rank has to
        take part for the others' sake too."""
        gathered, wanted = {}, {id(p) for p in mine}
        for p in filter(is_part, matrices):
            part = self._direction(p, group, momentum).to(_dtype(group["dtype"], p.device))
            direction = whole(as_part(part, p))
            if id(p) in wanted:
                gathered[p] = direction
        return gathered

    def _state(self, p: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
        state = self.state[p]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(p, dtype=torch.float32)
        if group["beta2"] and "second_moment" not in state:  # it may be switched on in mid-run
            lines = (p.shape[0], 1) if p.shape[0] >= p.shape[1] else (1, p.shape[1])
            state["second_moment"] = torch.zeros(lines, dtype=torch.float32, device=p.device)
        return state


def orthogonalize(x_NRC: Tensor, coefficients: list[Coefficients], iterations: int) -> Tensor:
    """Bring every singular value of each matrix near 1 and keep the singular vectors.

    Takes (N, R, C), which it overwrites, and returns as much in the same dtype. A zero matrix stays
    zero.
    """
    tall = x_NRC.shape[-2] > x_NRC.shape[-1]  # then the smaller Gram matrix is that of the columns
    norm_N11 = torch.linalg.vector_norm(x_NRC, dim=(-2, -1), keepdim=True, dtype=torch.float32)
    x_NRC.div_(norm_N11.mul_(HEADROOM).clamp_min_(1e-30).to(x_NRC.dtype))
    for i in range(iterations):
        a, b, c = coefficients[min(i, len(coefficients) - 1)]
        gram_NSS = x_NRC.mT @ x_NRC if tall else x_NRC @ x_NRC.mT
        poly_NSS = torch.baddbmm(gram_NSS, gram_NSS, gram_NSS, beta=b, alpha=c)
        left, right = (x_NRC, poly_NSS) if tall else (poly_NSS, x_NRC)
        # `a` on the diagonal of poly_NSS would be 1.2 times as fast, and nearly twice as far from
        # what float32 gives (2.4 %, not 1.4 %); two quickstarts showed no loss by it, and nothing
        # larger was tried
        x_NRC = torch.baddbmm(x_NRC, left, right, beta=a)
    return x_NRC


def even_out_(update_RC: Tensor, moment: Tensor, beta2: float) -> None:
    """NorMuon: divide each line of an update by the root of its running mean square, in place.

    A line is a row of a tall or square matrix, a column of a wide one: `moment` is (R, 1) or
    (1, C). The norm of the whole update stays.
    """
    across = 1 if moment.shape[1] == 1 else 0
    # not vector_norm: over the rows of a matrix it takes 12 times as long on the CPU
    power = update_RC.square().mean(across, keepdim=True)
    moment.lerp_(power, 1 - beta2)
    scale = moment.clamp_min(1e-10).rsqrt()
    evened = (power * scale.square()).sum().clamp_min(1e-20)
    update_RC.mul_(scale.mul_((power.sum() / evened).sqrt()))


def bf16_in_hardware(device: torch.device) -> bool:
    """Whether `device` multiplies bf16 natively; there it is some 4 times as fast as fp32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return False


def _dtype(name: str, device: torch.device) -> torch.dtype:
    return DTYPES[name] or (torch.bfloat16 if bf16_in_hardware(device) else torch.float32)


def _batches(params: list[Tensor]) -> Iterator[list[Tensor]]:
    """The matrices of one shape together."""
    same: dict[tuple[Any, ...], list[Tensor]] = {}
    for p in params:
        same.setdefault((p.device, p.shape), []).append(p)
    for matrices in same.values():
        limit = CPU_BATCH if matrices[0].is_cpu else BATCH
        count = max(1, limit // matrices[0].numel())
        for first in range(0, len(matrices), count):
            yield matrices[first : first + count]


def _momentum_now(group: dict[str, Any]) -> float:
    share = min(1.0, group["step"] / group["momentum_warmup"]) if group["momentum_warmup"] else 1.0
    return share * group["momentum"] + (1 - share) * min(WARMUP_START, group["momentum"])


def _grad(p: Tensor) -> Tensor:
    """What this rank holds of it."""
    assert p.grad is not None  # `step` asks for no others
    return held(p.grad).float()


def _apply(p: Tensor, update_RC: Tensor, group: dict[str, Any]) -> None:
    lr, (rows, columns) = group["lr"], p.shape
    update_RC, p = piece_of(update_RC, p), held(p)
    if decay := lr * group["weight_decay"]:
        if group["cautious"]:
            agree_RC = (update_RC * p).ge_(0)  # 1 where the step makes the weight smaller anyway
            p.addcmul_(p, agree_RC, value=-decay)
        else:
            p.mul_(1 - decay)
    p.add_(update_RC, alpha=-lr * math.sqrt(max(1, rows / columns)))
