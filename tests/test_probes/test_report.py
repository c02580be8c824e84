"""The page of a run, as a person's browser shows it."""

import math
import re

import numpy as np
import pytest
from PIL import Image

from mmdet_seg.probes.report import write_report
from mmdet_seg.probes.report_page import in_bytes, in_time
from mmdet_seg.probes.score_grid import cell_score, score_grids, setting_names
from tests.browser import Page
from tests.test_probes.result_samples import CLASSES, changed, sample


def with_pictures(results, folder):
    """Two images with two layers, and a worst one."""
    results.pictures = []
    for group in ('cat "A" <i>', 'dog'):
        for layer in (0, 2):
            file = f'{group[:3]}{layer}.png'
            noise = np.random.default_rng(layer).integers(0, 255, (28, 42, 3), np.uint8)
            Image.fromarray(noise).save(folder / file)
            entry = {'title': f'layer {layer}', 'file': file, 'kind': 'pca', 'group': group}
            results.pictures.append(entry)
    Image.new('RGB', (1200, 300), 'red').save(folder / 'worst.png')
    results.pictures.append(
        {'title': 'a.jpg', 'file': 'worst.png', 'kind': 'worst', 'score': 12.34}
    )
    return results


@pytest.fixture(scope='module')
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp('run')
    results = with_pictures(sample(), folder)
    results.command.append('<script>document.title = "broken into"</script>')
    results.notes.append('<img src=x onerror="document.title = 1">')
    results.rows[0]['name'] = results.rows[0]['name'] + ' <td onclick="x">'
    results.curves[results.rows[0]['name']] = results.curves.pop('layer 0, lr 0.001')
    results.write(folder)
    return results, write_report(folder)


def test_the_page_in_a_browser(report):
    _, path = report
    with Page(path) as page:
        assert page.run('document.title') == 'Segmentation by linear probes: random:small on scenes'
        sizes = page.run('[...document.images].map(i => i.complete && i.naturalWidth)')
        assert sizes == [42, 42, 42, 42, 960]
        assert page.run('[...document.images].every(i => i.alt)')
        # Three layers, two rates, one of them failed; the frame is around the best.
        assert page.run('document.querySelectorAll(".heat tbody tr").length') == 3
        cells = page.run('[...document.querySelectorAll(".heat td")].map(c => c.textContent)')
        assert cells == ['30.10', '31.00', '50.10', '51.00', '60.10', 'failed']
        assert page.run('document.querySelector(".heat td.best").textContent') == '60.10'
        assert page.run('document.querySelector(".score").firstChild.textContent') == '60.10'
        assert page.run('document.querySelectorAll("svg").length') == 3
        drawn = page.run('[...document.querySelectorAll("svg text")].map(t => t.textContent)')
        assert {'layer (block, from 0)', 'mIoU (%)', 'step', 'loss'} <= set(drawn)
        names = page.run('[...document.querySelectorAll(".per tbody tr td")].map(c => c.innerText)')
        assert [n for n in names if n in CLASSES] == CLASSES  # as typed, tags and all
        assert "it's <here>" in page.run('document.querySelector("pre").textContent').replace(
            """'"'"'""", "'"
        )
        assert page.run('document.body.innerText').count('12.3 %') == 1
        assert not page.errors
        assert not page.requests


def test_tables_sort(report):
    _, path = report
    column = '[...document.querySelectorAll(".rows tbody tr")].map(r => r.cells[{}].textContent)'
    with Page(path) as page:
        start = page.run(column.format(2))
        assert start == ['60.10', '51.00', '50.10', '31.00', '30.10', 'failed']
        page.click('.rows th:nth-child(3) button')
        assert page.run(column.format(2)) == start
        assert page.run('document.querySelector(".rows th:nth-child(3)").ariaSort') == 'descending'
        page.click('.rows th:nth-child(3) button')
        assert page.run(column.format(2)) == [*reversed(start[:-1]), 'failed']  # unknown stays last
        page.click('.rows th:nth-child(1) button')
        names = page.run(column.format(0))
        assert names == sorted(names, reverse=True)
        assert page.run('document.querySelectorAll("[aria-sort]").length') == 1
        assert not page.errors


@pytest.mark.parametrize('dark', [False, True])
def test_it_is_readable_on_a_phone(report, dark, tmp_path):
    _, path = report
    with Page(path, width=390, height=844, dark=dark) as page:
        assert page.run('window.innerWidth') == 390
        assert page.run('document.documentElement.scrollWidth') == 390
        small = page.run(
            '[...document.querySelectorAll("p, td, th, dd, dt, li, h1, h2")]'
            '.map(e => parseFloat(getComputedStyle(e).fontSize)).filter(s => s < 12)'
        )
        assert small == []
        # Ink differs from paper enough to be read (WCAG AA: 4.5), in the charts too.
        for ink in ('body', 'p.soft', 'svg text'):
            assert contrast(page, ink) >= 4.5, ink
        page.screenshot(tmp_path / 'phone.png')
        shown = np.asarray(Image.open(tmp_path / 'phone.png').convert('L'))
        assert (shown.mean() < 110) == dark
        assert not page.errors


def contrast(page, selector):
    """Of the text of an element on the page's paper, as WCAG 2 defines it."""
    colours = page.run(
        f'[getComputedStyle(document.querySelector({selector!r})), '
        'getComputedStyle(document.body)].map((s, i) => '
        f'i ? s.backgroundColor : {selector!r}.startsWith("svg") ? s.fill : s.color)'
    )
    levels = []
    for colour in colours:
        parts = [int(v) / 255 for v in re.findall(r'\d+', colour)[:3]]
        linear = [v / 12.92 if v <= 0.03928 else ((v + 0.055) / 1.055) ** 2.4 for v in parts]
        levels.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])
    return (max(levels) + 0.05) / (min(levels) + 0.05)


def test_pictures_lie_beside_it(report):
    _, path = report
    for name in ('heat_map', 'layers', 'loss', 'score', 'classes'):
        assert np.asarray(Image.open(path.with_name(f'{name}.png'))).std() > 5
    text = path.read_text()
    assert text.count('data:image/') == 5
    assert not re.search(r'(src|href)="(?!data:|#)', text)
    assert 'onerror="document' not in text


def test_what_a_run_may_lack(tmp_path):
    """Nothing but rows; nothing that scored; a picture that is gone; two metrics."""
    bare = changed(
        sample(), curves={}, published=[], notes=[], cost={}, machine={}, command=[], date=''
    )
    for row in bare.rows:
        row['per_class'] = None
        row['scores'] = {}
    bare.write(tmp_path)
    assert 'Curves' not in write_report(tmp_path).read_text()
    for row in bare.rows:
        row['score'] = math.nan
    bare.pictures = [{'title': 'gone', 'file': 'gone.png', 'kind': 'pca', 'group': 'g'}]
    bare.write(tmp_path)
    text = write_report(tmp_path).read_text()
    assert 'No row has a score' in text
    assert 'gone.png is missing or broken' in text
    assert 'No published per-class rows' not in text  # nor any classes of ours
    two = sample()
    del two.published[1]['per_class']
    two.write(tmp_path)
    text = write_report(tmp_path).read_text()
    assert 'No published per-class rows are known for this data.' in text
    assert '(published)</th>' not in text
    two = sample()
    two.rows[0]['metric'] = 'k-NN top 1/5'
    two.write(tmp_path)
    assert write_report(tmp_path).read_text().count('class="heat"') == 2
    assert (tmp_path / 'heat_map_k-NN-top-1-5.png').exists()


def test_a_grid_has_the_settings_that_tell_rows_apart():
    results = sample()
    for i, row in enumerate(results.rows):
        row |= {'seconds': 10.5 + i, 'note': 'same'}
    assert setting_names(results.rows) == ['lr']
    again = [dict(row, seed=1, name=row['name'] + ', seed 1') for row in results.rows]
    for row in again:
        row['score'] += 2
    results.rows += again
    (grid,) = score_grids(results)
    assert grid.layers == [(0,), (2,), (3,)]
    assert grid.settings == ['rate 0.001', 'rate 0.01']
    assert [len(cell) for line in grid.cells for cell in line] == [2] * 6
    assert cell_score(grid.cells[1][0]) == pytest.approx(51.1)
    assert (grid.low, grid.high) == pytest.approx((31.1, 61.1))


def test_figures_are_in_words():
    assert [in_time(s) for s in (0.52, 59.94, 123, 3720)] == [
        '0.5 s', '59.9 s', '2 min 03 s', '1 h 02 min',
    ]  # fmt: skip
    assert [in_bytes(b) for b in (0, 12, 1536, 3 << 30)] == [
        '0 bytes', '12 bytes', '1.50 KiB', '3.00 GiB',
    ]  # fmt: skip


def test_of_many_published_figures_the_nearest_are_drawn(tmp_path):
    results = sample()
    results.published = [{'name': f'other {i}', 'score': 5.0 * i, 'source': 's'} for i in range(20)]
    results.write(tmp_path)
    with Page(write_report(tmp_path)) as page:
        names = page.run('[...document.querySelectorAll(".bars dt")].map(e => e.firstChild.data)')
        best = 'best row: layer 3, lr 0.001'  # 60.1; of 45 and 75 the latter is nearer
        others = [f'other {i}' for i in (15, 14, 13, 12, 11, 10)]
        assert names == [*others[:3], best, *others[3:]]
        assert page.run('document.querySelectorAll(".others tbody tr").length') == 20
        assert page.run('document.querySelector(".others").checkVisibility()') is False
        page.click('summary')
        assert page.run('document.querySelector(".others").checkVisibility()') is True
        assert not page.errors
