"""What sentence-transformers makes of towers that we wrote: loaded, and computed with.

    python load_sentence_transformer.py FOLDER      in an environment with sentence-transformers

FOLDER holds texts.json, the texts by the name of the tower's folder beside it; vectors.npz is written there. It stands
alone: nothing of this project is imported.
"""

import json
import sys
from pathlib import Path

import numpy as np
from sentence_transformers import SentenceTransformer


def main() -> None:
    folder = Path(sys.argv[1])
    vectors = {}
    for name, texts in json.loads((folder / "texts.json").read_text()).items():
        model = SentenceTransformer(str(folder / name), device="cpu")
        assert model.similarity_fn_name == "dot", model.similarity_fn_name
        inputs = [text if isinstance(text, str) else tuple(text) for text in texts]
        vectors[name] = model.encode(inputs)
    np.savez(folder / "vectors.npz", **vectors)


if __name__ == "__main__":
    main()
