"""Writes what Hugging Face's REALM computes, for tests to hold ours against:

hf_realm.json: the loss of RealmKnowledgeAugEncoder, and its gradient, on small random cases.
hf_realm/: a RealmScorer with two towers and a RealmKnowledgeAugEncoder as folders, and in expected.json a batch as
wordpieces, what the two make of it (vectors, relevance, loss) and the gradients.

transformers had REALM until 4.57.6, and this project needs a newer one, so the numbers are made once, elsewhere:

    python3.11 -m venv oracle-env && oracle-env/bin/pip install torch==2.13.0 transformers==4.57.6
    oracle-env/bin/python tests/oracle/make_hf_realm.py

Shapes: B queries, C candidates (null first), L tokens, S tokens of a joint sequence, P embedding.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import RealmConfig, RealmEmbedder, RealmKnowledgeAugEncoder, RealmScorer

NUM_CANDIDATES, LENGTH, VOCABULARY = 4, 12, 60
POSITIONS = ((2, 3), (4, 5), (6, 0))
MASKS = ((1.0, 1.0), (1.0, 1.0), (1.0, 0.0))


def case(seed: int) -> dict[str, object]:
    """Inputs of the marginal as we take them, and what RealmKnowledgeAugEncoder makes of the same batch."""
    torch.manual_seed(seed)
    config = RealmConfig(
        vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        num_candidates=NUM_CANDIDATES, max_position_embeddings=32, pad_token_id=0,
    )  # fmt: skip
    encoder = RealmKnowledgeAugEncoder(config).eval()
    size = len(POSITIONS)
    ids = torch.randint(1, VOCABULARY, (size, NUM_CANDIDATES, LENGTH))
    relevance = torch.randn(size, NUM_CANDIDATES, requires_grad=True)
    targets = torch.randint(1, VOCABULARY, (size, 2))
    labels, mlm_mask = torch.zeros(size, LENGTH, dtype=torch.long), torch.zeros(size, LENGTH)
    for row, places in enumerate(POSITIONS):
        for slot, place in enumerate(places):
            if MASKS[row][slot]:
                labels[row, place], mlm_mask[row, place] = targets[row, slot], 1.0
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    loss = encoder(**inputs, relevance_score=relevance, labels=labels, mlm_mask=mlm_mask).loss
    (gradient,) = torch.autograd.grad(loss, relevance)
    with torch.no_grad():
        log_p = encoder(**inputs).logits.view(size, NUM_CANDIDATES, LENGTH, -1).log_softmax(-1)
    token_log_p = [
        [
            [log_p[row, c, POSITIONS[row][slot], targets[row, slot]].item() for slot in (0, 1)]
            for c in range(NUM_CANDIDATES)
        ]
        for row in range(size)
    ]
    return {
        "relevance_BC": relevance.tolist(),
        "token_log_p_BCM": token_log_p,
        "masks_BM": MASKS,
        "loss": loss.item(),
        "gradient_BC": gradient.tolist(),
    }


CLS, SEP, MASK = 2, 3, 4
QUERY_TOKENS, PASSAGE_TOKENS = 12, 16
JOINT_TOKENS = QUERY_TOKENS + PASSAGE_TOKENS
QUERIES = (
    {"ids": [2, 20, 21, 4, 4, 22, 3], "positions": [3, 4], "targets": [30, 31]},
    {"ids": [2, 4, 23, 3], "positions": [1], "targets": [32]},
    {"ids": [2, 24, 25, 26, 27, 4, 4, 4, 28, 29, 20, 3], "positions": [5, 6, 7], "targets": [33, 34, 35]},
)
PASSAGES = (
    ([], []),
    ([40], [30, 31, 41]),
    ([42, 43], [32]),
    ([], [33, 34, 35, 44, 45, 46, 47, 48]),
    ([49, 50, 51], [52, 53, 54, 55, 56, 57, 58, 59, 40, 41, 42, 43, 44, 45, 46, 47]),
)
"""Title and body; the first is the null passage, and the last is longer than a passage may be."""
CANDIDATES = ((0, 1, 2, 4), (0, 3, 2, 1), (0, 3, 4, 2))


def whole_model(folder: Path) -> dict[str, object]:
    """Save two tiny models as transformers folders; the batch, and what they make of it."""
    torch.manual_seed(7)
    config = RealmConfig(
        vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
        retriever_proj_size=8, num_candidates=NUM_CANDIDATES, pad_token_id=0,
    )  # fmt: skip
    scorer = RealmScorer(config, query_embedder=RealmEmbedder(config)).eval()
    encoder = RealmKnowledgeAugEncoder(config).eval()
    with torch.no_grad():  # Fresh weights hardly tell one passage from another.
        for parameter in (*scorer.parameters(), *encoder.parameters()):
            parameter.add_(0.3 * torch.randn_like(parameter))
    save(scorer, config, folder / "embedder")
    save(encoder, config, folder / "encoder")
    relevance = score(scorer)
    relevance.retain_grad()
    loss = read(encoder, relevance)
    loss.backward()
    with torch.no_grad():
        query_BP = scorer.query_embedder(**queries()).projected_score
        passage_BCP = scorer.embedder(**flat(passages())).projected_score.view(*relevance.shape, -1)
    return {
        "query_tokens": QUERY_TOKENS,
        "passage_tokens": PASSAGE_TOKENS,
        "queries": QUERIES,
        "passages": PASSAGES,
        "candidates": CANDIDATES,
        "query_BP": query_BP.tolist(),
        "passage_BCP": passage_BCP.tolist(),
        "relevance_BC": relevance.tolist(),
        "loss": loss.item(),
        "gradient_BC": relevance.grad.tolist(),
        "gradient_norms": {
            "query_tower": gradient_norm(scorer.query_embedder),
            "passage_tower": gradient_norm(scorer.embedder),
            "encoder": gradient_norm(encoder),
        },
    }


def save(model: torch.nn.Module, config: RealmConfig, folder: Path) -> None:
    """As save_pretrained would, had it not refused tensors that share memory."""
    config.save_pretrained(folder)
    state = {name: value.contiguous() for name, value in model.state_dict().items() if "decoder.bias" not in name}
    if isinstance(model, RealmKnowledgeAugEncoder):
        del state["cls.predictions.decoder.weight"]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def score(scorer: RealmScorer) -> torch.Tensor:
    """Relevance [B, C] by full-length sequences."""
    candidates = {f"candidate_{name}": value for name, value in passages().items()}
    return scorer(**queries(), **candidates).relevance_score


def read(encoder: RealmKnowledgeAugEncoder, relevance: torch.Tensor) -> torch.Tensor:
    """The loss over full-length joint sequences."""
    rows = [
        [(query["ids"][1:-1], PASSAGES[number][1][: PASSAGE_TOKENS - 2]) for number in numbers]
        for query, numbers in zip(QUERIES, CANDIDATES, strict=True)
    ]
    inputs = stacked([[two_segments(*row, JOINT_TOKENS) for row in group] for group in rows])
    labels = torch.zeros(len(QUERIES), JOINT_TOKENS, dtype=torch.long)
    mlm_mask = torch.zeros(len(QUERIES), JOINT_TOKENS)
    for row, query in enumerate(QUERIES):
        labels[row, query["positions"]] = torch.tensor(query["targets"])
        mlm_mask[row, query["positions"]] = 1.0
    return encoder(**inputs, relevance_score=relevance, labels=labels, mlm_mask=mlm_mask).loss


def queries() -> dict[str, torch.Tensor]:
    rows = [query["ids"] + [0] * (QUERY_TOKENS - len(query["ids"])) for query in QUERIES]
    ids = torch.tensor(rows)
    return {"input_ids": ids, "attention_mask": (ids != 0).long(), "token_type_ids": torch.zeros_like(ids)}


def passages() -> dict[str, torch.Tensor]:
    rows = []
    for numbers in CANDIDATES:
        pairs = [PASSAGES[number] for number in numbers]
        room = PASSAGE_TOKENS - 3
        rows.append([two_segments(title, body[: room - len(title)], PASSAGE_TOKENS) for title, body in pairs])
    return stacked(rows)


def two_segments(first: list[int], second: list[int], length: int) -> tuple[list[int], list[int], list[int]]:
    """Ids, mask and types of [CLS] first [SEP] second [SEP], padded."""
    ids = [CLS, *first, SEP, *second, SEP]
    types = [0] * (len(first) + 2) + [1] * (len(second) + 1)
    padding = [0] * (length - len(ids))
    return ids + padding, [1] * len(ids) + padding, types + padding


def stacked(rows: list[list[tuple[list[int], list[int], list[int]]]]) -> dict[str, torch.Tensor]:
    names = ("input_ids", "attention_mask", "token_type_ids")
    return {name: torch.tensor([[row[part] for row in group] for group in rows]) for part, name in enumerate(names)}


def flat(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value.flatten(0, 1) for name, value in inputs.items()}


def gradient_norm(model: torch.nn.Module) -> float:
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    return torch.stack([gradient.norm() for gradient in gradients]).norm().item()


if __name__ == "__main__":
    here = Path(__file__).parent
    (here / "hf_realm.json").write_text(json.dumps([case(seed) for seed in range(3)], indent=1) + "\n")
    expected = whole_model(here / "hf_realm")
    (here / "hf_realm" / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")
