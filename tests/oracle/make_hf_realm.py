"""Writes hf_realm.json: the loss of Hugging Face's REALM, and its gradient, on small random cases.

transformers had REALM until 4.57.6, and this project needs a newer one, so the numbers are made once, elsewhere:

    python -m venv /tmp/oracle && /tmp/oracle/bin/pip install torch transformers==4.57.6
    /tmp/oracle/bin/python tests/oracle/make_hf_realm.py
"""

import json
from pathlib import Path

import torch
from transformers import RealmConfig, RealmKnowledgeAugEncoder

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


if __name__ == "__main__":
    path = Path(__file__).with_name("hf_realm.json")
    path.write_text(json.dumps([case(seed) for seed in range(3)], indent=1) + "\n")
