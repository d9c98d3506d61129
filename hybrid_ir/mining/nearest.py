"""The passages that score best for each question, those that answer it left out. In: vectors. Out: numbers of passages.

Exact: every passage is scored, a chunk at a time, and the best so far are kept. So memory does not grow with the number
of passages: `B` x `CHUNK` scores with their keys take some 20 bytes each, 40 MiB for 512 questions.

Shape legend: `B` questions, `P` passages, `C` passages of a chunk, `K` passages kept, `D` dimensions; `G` groups, `A`
languages that questions rank from, `S` answers of a group, `N` candidates of a group.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from hybrid_ir.mining.choice import Found, Score
from hybrid_ir.mining.pool import Pool
from hybrid_ir.mining.scratch import LanguageScratch

CHUNK = 4096
SPARE = 8
"""Passages kept of each question beyond the last rank. A sum of products comes out a last bit higher or lower by what
is computed beside it: this many may change places with the last one before the exact scores are compared."""
_BYTES = 1 << 26  # of gathered candidates at a time
_NONE = torch.iinfo(torch.int64).min
_LOW = (1 << 32) - 1


def nearest(
    questions_BD: np.ndarray,
    passages_PD: np.ndarray,
    answers_BP: csr_array,
    depth: int,
    *,
    device: str = "cpu",
    chunk: int = CHUNK,
) -> np.ndarray:
    """(B, depth) int64: the passages with the highest dot products, the best first, -1 where there are no more.

    Of equal scores that of the lower number comes first, whatever `chunk` is. `answers_BP` are left out.
    """
    questions = torch.from_numpy(questions_BD).to(device)
    best_BK = torch.full((len(questions_BD), depth), _NONE, dtype=torch.int64, device=device)
    for start in range(0, len(passages_PD), chunk):
        passages_CD = torch.from_numpy(passages_PD[start : start + chunk]).to(device)
        keys_BC = _keys(questions @ passages_CD.T, start)
        rows, columns = (torch.from_numpy(x).to(device) for x in answers_BP[:, start : start + chunk].nonzero())
        keys_BC[rows.long(), columns.long()] = _NONE
        best_BK = torch.cat([best_BK, keys_BC], dim=1).topk(depth, dim=1).values
    found = torch.where(best_BK == _NONE, -1, _LOW - (best_BK & _LOW))
    return found.cpu().numpy()


def _keys(scores_BC: Tensor, start: int) -> Tensor:
    """Score and number of a passage as one integer, in the order of the scores, then of the lower number."""
    bits = (scores_BC + 0.0).view(torch.int32)  # -0.0 + 0.0 is 0.0: the two are equal
    # The bits of positive floats are in their order as integers. Those of negative ones are in the reverse.
    keys_BC = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).long()
    numbers = torch.arange(start, start + scores_BC.shape[1], device=scores_BC.device)
    return keys_BC.bitwise_left_shift_(32).bitwise_or_(_LOW - numbers)


@dataclass
class ByVectors:
    """Finds passages by the dot products of their vectors with those of the questions."""

    scratch: Mapping[str, LanguageScratch]
    dimensions: int
    device: str
    chunk: int = CHUNK

    def find(
        self,
        pool: Pool,
        language: str,
        ranking: Sequence[str],
        places: np.ndarray,
        answers_GP: csr_array,
        depth: int,
    ) -> Found:
        """What the questions in the languages `ranking` find among the passages of a language, of the groups at these
        places of it. `answers_GP` are left out."""
        part, passages_PD = pool.languages[language], self.scratch[language].vectors("document", self.dimensions)
        group_G = part.group_Q[places]
        shape = (len(places), max(1, len(ranking)))
        asked_GA = np.zeros(shape, bool)
        questions_GAD = np.zeros((*shape, self.dimensions), np.float32)
        # What is nearest by `depth` and a bit: the exact scores may put some in another order.
        found_GAK = np.full((*shape, depth + SPARE), -1)
        for a, other in enumerate(ranking):
            here, rows = pool.questions_of(other, group_G)
            if not len(here):
                continue
            asked_GA[here, a] = True
            questions_GAD[here, a] = self.scratch[other].vectors("query", self.dimensions)[rows]
            found_GAK[here, a] = nearest(
                questions_GAD[here, a], passages_PD, answers_GP[here], found_GAK.shape[2],
                device=self.device, chunk=self.chunk,
            )  # fmt: skip
        answers_GSD = passages_PD[part.answers_GS(places)]
        score = _exact_cosines(questions_GAD, answers_GSD, passages_PD)
        candidates = found_GAK[0].size
        row_bytes = 8 * (candidates * (passages_PD.shape[1] + shape[1]) + answers_GSD[:1].size)
        return Found(asked_GA, found_GAK, score, max(1, _BYTES // row_bytes))


def _exact_cosines(questions_GAD: np.ndarray, answers_GSD: np.ndarray, passages_PD: np.ndarray) -> Score:
    """In float64, then rounded: a score does not depend on which passages it was computed beside."""

    def score(rows: np.ndarray, candidates_GN: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        questions = questions_GAD[rows].astype(np.float64)
        vectors_GND = passages_PD[candidates_GN].astype(np.float64)
        scores_GAN = (questions @ vectors_GND.transpose(0, 2, 1)).astype(np.float32).astype(np.float64)
        answers_GDS = answers_GSD[rows].astype(np.float64).transpose(0, 2, 1)
        answer_GA = (questions @ answers_GDS).min(axis=2).astype(np.float32).astype(np.float64)
        return scores_GAN, answer_GA

    return score
