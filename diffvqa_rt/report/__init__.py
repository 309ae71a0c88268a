"""Results as one HTML file that a person looks at, without a network, a server or a script from elsewhere.

    report = build_report([read_results(Path("scores.json"))], pictures=ScoredFrames())
    Path("report.html").write_text(report.html, encoding="utf-8")

`reading` checks files of results, `ranking` sorts what may be compared, and `comparison` pairs two files. `plots` draws
with matplotlib, `pictures` shows the frames that were scored, and `page` puts all of it into `template.html`.
"""
