"""The backend in plain torch: the truth that faster ones must equal.   Axes: T tokens, N rows, V vocab, D model."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from octavo.core.errors import ConfigError
from octavo.engine.types import Plan
from octavo.models.decoder import Decoder
from octavo.nn.context import PagedContext, Pages

PAGE_TOKENS = 16  # few: what is left of a sequence's last page is wasted; neighbours are read as one all the same


class TorchBackend:
    """Runs a decoder over pages, on the device where its weights are. Implements `engine.types.Backend`."""

    def __init__(self, model: Decoder, *, cache_bytes: int = 2 << 30, page_tokens: int = PAGE_TOKENS) -> None:
        """cache_bytes: memory that keys and values may take; on a CPU it is taken as pages are first written.

        Raises ConfigError where not even one page fits.
        """
        c, first = model.config, model.model.norm.weight
        page_bytes = 2 * c.layers * page_tokens * c.heads.kv_heads * c.heads.head_width * first.element_size()
        self.model, self.page_tokens = model.eval(), page_tokens
        self.vocab_size, self.context_tokens, self.width = c.vocab_size, c.context_tokens, c.heads.width
        self.pages = cache_bytes // page_bytes
        if self.pages < 1:
            raise ConfigError(
                f"a page of {page_tokens} tokens needs {page_bytes:,} bytes for keys and values, "
                f"cache_bytes={cache_bytes:,} was given: give at least one page."
            )
        self.store = Pages(
            layers=c.layers, pages=self.pages, page_tokens=page_tokens, kv_heads=c.heads.kv_heads,
            head_width=c.heads.head_width, dtype=first.dtype, device=first.device,
        )  # fmt: skip

    @torch.inference_mode()
    def forward(self, plan: Plan) -> NDArray[np.float32]:
        """Logits (N, V), fp32; keys and values of all the plan's tokens are in their pages afterwards."""
        hidden_ND = self._rows(plan)
        return self.model.logits(hidden_ND).float().cpu().numpy()

    @torch.inference_mode()
    def hidden(self, plan: Plan) -> NDArray[np.float32]:
        """Rows (N, D) after the last norm, fp32, instead of their logits."""
        return self._rows(plan).float().cpu().numpy()

    def _rows(self, plan: Plan) -> Tensor:
        for copy in plan.copies:
            self.store.copy(source=copy.source, target=copy.target, tokens=copy.tokens)
        context = PagedContext(self.store, [(len(c.tokens), c.start, c.pages) for c in plan.chunks])
        rows, first = list[int](), 0
        for chunk in plan.chunks:
            last = first + len(chunk.tokens)
            rows += {"none": [], "last": [last - 1], "all": list(range(first, last))}[chunk.rows]
            first = last
        device = context.positions_T.device
        tokens_T = torch.tensor([token for chunk in plan.chunks for token in chunk.tokens], device=device)
        hidden_TD = self.model(tokens_T, context)
        return hidden_TD[torch.tensor(rows, device=device, dtype=torch.int64)]
