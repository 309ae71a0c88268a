"""A result in a notebook."""

from xml.etree import ElementTree


def test_a_result_is_a_small_table_in_which_names_stay_names(scored):
    name = "<script>alert(1)</script>\u202e.mp4"
    html = scored(name, 74.0479, warning="a < b", parts={"technical": 1.5, "<b>": None}, prompt="x & y")._repr_html_()
    rows = {row[0].text: row[1].text for row in ElementTree.fromstring(html)}
    assert rows == {
        "video": "<script>alert(1)</script>\\u202e.mp4",
        "prompt": "x & y",
        "score": "74.05 of 0 to 100",
        "technical": "1.50",
        "<b>": "–",
        "model": "diffvqa, tiny",
        "warning few-frames": "a < b",
    }
