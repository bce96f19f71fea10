"""docs/reference/recipes.md is what the recipes' classes say today."""

import runpy

from tests.contracts.tree import ROOT


def test_the_page_is_up_to_date():
    made = runpy.run_path(str(ROOT / "docs" / "reference" / "make_recipes_page.py"))
    text = (ROOT / "docs" / "reference" / "recipes.md").read_text(encoding="utf-8")
    assert text == made["page"](), "run python docs/reference/make_recipes_page.py"
