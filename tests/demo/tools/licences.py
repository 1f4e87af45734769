"""Answer questions about the texts in /work/licences, as JSON on standard output."""

import json
import pathlib
import re

texts = {path.name: path.read_text(errors="replace") for path in pathlib.Path("licences").iterdir()}
patent = {
    name: len(re.findall(r"\bpatents?\b", text, re.IGNORECASE)) for name, text in texts.items()
}
words = {name: len(text.split()) for name, text in texts.items()}
print(
    json.dumps(
        {
            "texts": len(texts),
            "longest": max(words, key=lambda name: (words[name], name)),
            "longest_words": max(words.values()),
            "patent_most": max(patent, key=lambda name: (patent[name], name)),
            "patent_count": max(patent.values()),
            "no_patent": sorted(name for name, count in patent.items() if count == 0),
        }
    )
)
