"""What the documentation points at is there: links, paths, names of types, the files of
CONTRIBUTING.md's table, the dependencies. And comments stay within 100 columns, which clang-format
does not see to."""

import argparse
import re
import sys
import unittest
from pathlib import Path

FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
SOURCE_NAME = re.compile(r"[\w.*]+\.(h|cpp|cu|inl|cmake|py|sh|sbatch|md)")
SOURCES = (".h", ".cpp", ".cu", ".inl")


def documents():
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "slurm/README.md",
            *sorted((ROOT / "docs").glob("*.md"))]


def code_spans(text):
    """Texts between single backticks, outside of fenced blocks; a line end is a space."""
    return [re.sub(r"\s+", " ", span) for span in re.findall(r"`([^`]+)`", FENCE.sub("", text))]


def pattern(path):
    """NAME in capitals stands for any name; a path may lack its suffix, as `data/sampler`."""
    return re.sub(r"\bNAME\b|(?<=/)NAME(?=_)", "*", path).rstrip("/")


def exists(path):
    found = pattern(path)
    return any(any(folder.glob(found + suffix)) for folder in (ROOT, ROOT / "src")
               for suffix in ("", ".h", ".*", ".example"))


def paths_in(span):
    """Paths of the tree in a code span: what begins with one of its folders, and names of sources."""
    folders = {p.name for p in ROOT.iterdir() if p.is_dir()} | {p.name for p in SRC.iterdir()}
    folders -= {"build"}
    for word in re.split(r"[\s,;()=]+", span):
        word = re.sub(r":\d+$", "", word)
        if "/" in word and word.split("/")[0] in folders and re.fullmatch(r"[\w./*-]+", word):
            yield word


def missing_paths(text):
    spans = code_spans(text)
    commands = [word for block in FENCE.findall(text) for word in block.split()
                if re.match(r"(scripts|configs|benchmarks|slurm|tools|tests|docs)/", word) or
                re.fullmatch(r"(\w+/)+" + SOURCE_NAME.pattern, word)]
    missing = [p for p in [*commands, *(p for s in spans for p in paths_in(s))] if not exists(p)]
    # Suffixes alone (".cpp") and names that stand for others are not looked for.
    names = {s for s in spans if SOURCE_NAME.fullmatch(s) and not s.startswith((".", "NAME"))}
    tree = {p.name for folder in TREE for p in folder.rglob("*") if p.is_file()}
    tree |= {p.name for p in ROOT.iterdir()}
    return missing + sorted(n for n in names if "*" not in n and n not in tree)


def missing_links(document, text):
    missing = []
    for target in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", text)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, heading = target.partition("#")
        file = (document.parent / path).resolve() if path else document
        if not file.exists():
            missing.append(target)
        elif heading and heading not in anchors(file.read_text()):
            missing.append(target)
    return missing


def anchors(text):
    titles = re.findall(r"^#+ (.*)$", FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def type_names(text):
    """`Engine`, `Tokenizer::load`, `PassOptions`: names that the code must have."""
    for span in code_spans(text):
        name = re.sub(r"\(.*\)$", "", span)
        if re.fullmatch(r"(\w+::)*\w+", name) and re.match(r"([a-z]+::)*[A-Z]+[a-z]", name):
            yield from re.split("::", name)


class DocsTest(unittest.TestCase):
    def test_links_and_paths(self):
        for document in documents():
            text = document.read_text()
            with self.subTest(document=document.name):
                self.assertEqual(missing_links(document, text), [])
                self.assertEqual(missing_paths(text), [])

    def test_a_path_that_is_not_there_is_found(self):
        text = "`src/train/no_such_file.h` and [a link](docs/none.md), `none_such.cpp`, `Method`"
        self.assertEqual(missing_paths(text), ["src/train/no_such_file.h", "none_such.cpp"])
        self.assertEqual(missing_links(ROOT / "README.md", text), ["docs/none.md"])
        self.assertEqual(missing_paths("`src/model/families/NAME.h`, `io/checkpoint_*`"), [])
        self.assertEqual(list(type_names("`Tokenizer::load`, `NAME`, `main()`")),
                         ["Tokenizer", "load"])

    def test_names_of_types(self):
        words = {word for folder in TREE for path in folder.rglob("*") if path.suffix in SOURCES
                 for word in re.findall(r"\w+", path.read_text())}
        for document in [ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]:
            with self.subTest(document=document.name):
                unknown = set(type_names(document.read_text())) - words
                self.assertEqual(unknown, set())

    def test_the_step_loop_is_one_hop_from_the_readme(self):
        linked = set(re.findall(r"\]\(([^)]+)\)", (ROOT / "README.md").read_text()))
        self.assertLessEqual({"src/train/trainer.cpp", "src/train/training_engine.h",
                              "CONTRIBUTING.md", "LICENSE", "docs/dependencies.md"}, linked)

    def test_every_page_can_be_found_from_the_readme(self):
        text = (ROOT / "README.md").read_text()
        for page in sorted((ROOT / "docs").glob("*.md")):
            self.assertIn(f"docs/{page.name}", text)

    def test_every_row_of_what_to_touch_names_files(self):
        rows = [row for row in (ROOT / "CONTRIBUTING.md").read_text().splitlines()
                if re.match(r"\| an? ", row)]
        self.assertGreaterEqual(len(rows), 12)
        for row in rows:
            files = [path for span in code_spans(row) for path in paths_in(span)]
            self.assertTrue(files, row)

    def test_dependencies_are_listed(self):
        listed = set(code_spans((ROOT / "docs/dependencies.md").read_text()))
        wheels = [re.match(r"[\w-]+", line)[0]
                  for file in sorted((ROOT / "tools").glob("requirements*.txt"))
                  for line in file.read_text().splitlines() if re.match(r"\w", line)]
        setup = (ROOT / "scripts/setup.sh").read_text()
        packages = " ".join(re.findall(r"system_packages\+?=\(([^)]*)\)", setup)).split()
        self.assertGreater(min(len(wheels), len(packages)), 10)
        self.assertEqual(sorted({*wheels, *packages} - listed), [])

    def test_comments_stay_within_100_columns(self):
        for folder in TREE:
            for path in sorted(p for p in folder.rglob("*") if p.suffix in SOURCES):
                for number, line in enumerate(path.read_text().splitlines(), 1):
                    if re.match(r"\s*//", line):
                        self.assertLessEqual(len(line), 100, f"{path}:{number}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--source", type=Path, required=True)
    ARGS, rest = parser.parse_known_args()
    ROOT, SRC = ARGS.source, ARGS.source / "src"
    TREE = [ROOT / name for name in ("src", "tests", "benchmarks", "scripts", "tools", "slurm",
                                     "cmake", "docs")]
    unittest.main(argv=[sys.argv[0], *rest])
