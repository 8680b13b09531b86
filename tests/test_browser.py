def test_errors_and_requests_of_a_page_are_seen(browser, tmp_path):
    page = tmp_path / "page.html"
    page.write_text(
        "<html><head></head><body><p id='x'>a &amp; b</p><img src='https://nowhere.invalid/x.png'>"
        "<script>nothing();</script></body></html>"
    )
    opened = browser(page, "return document.getElementById('x').textContent;")
    assert opened.value == "a & b"
    assert opened.requests == ["https://nowhere.invalid/x.png"]
    assert any("nothing is not defined" in failure for failure in opened.failures)
    assert browser(page, "throw new Error('mine');").failures[-1].startswith("script: Error: mine")
