"""Style and script of a report; the page can be read without the script."""

from mmdet_seg.probes.report_charts import DARK

_LIGHT = {'paper': '#fdfdfb', 'card': '#f4f4f0', 'ink': '#22252a', 'soft': '#5d6168',
          'line': '#dcdcd6', 'accent': '#0b63a5', 'bar': '#b9d6ea', 'note': '#fff6dc'}  # fmt: skip
_NIGHT = {'paper': '#15171a', 'card': '#1e2125', 'ink': '#e6e6e2', 'soft': '#a3a7ad',
          'line': '#34383e', 'accent': '#7cc0f0', 'bar': '#27506c', 'note': '#3a3117'}  # fmt: skip

_RULES = """
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--paper);color:var(--ink);
 font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue","DejaVu Sans",sans-serif}
main{max-width:70rem;margin:0 auto;padding:2rem 1.25rem 4rem}
h1{font-size:1.65rem;line-height:1.25;margin:0 0 .35rem;font-weight:650;letter-spacing:-.01em;overflow-wrap:anywhere}
h2{font-size:1.15rem;margin:3rem 0 .6rem;padding-top:.9rem;border-top:1px solid var(--line);font-weight:650}
h3{font-size:.95rem;margin:1.3rem 0 .5rem;font-weight:600;overflow-wrap:anywhere}
p{margin:.4rem 0 .8rem;max-width:46rem}p.wide{max-width:none}
.soft,figcaption,caption{color:var(--soft);font-size:.875rem}
a{color:var(--accent)}
.headline{display:grid;grid-template-columns:minmax(0,1fr) minmax(0,1.4fr);gap:2rem;margin:1.6rem 0 1rem;align-items:center}
.score{font-size:3.4rem;line-height:1;font-weight:680;letter-spacing:-.03em;font-variant-numeric:tabular-nums}
.score small{font-size:1.1rem;font-weight:500;letter-spacing:0;color:var(--soft);margin-left:.4rem}
.bars{display:grid;gap:.45rem;margin:0;font-size:.875rem}
.bars div{display:grid;grid-template-columns:minmax(0,11rem) minmax(0,1fr) 3.4rem;gap:.7rem;align-items:center}
.bars dt{overflow-wrap:anywhere;line-height:1.25}.bars dd{margin:0}
.bars .track{background:var(--card);height:1rem;border-radius:3px;overflow:hidden}
.bars .track i{display:block;height:100%;background:var(--soft);opacity:.55}
.bars .ours .track i{background:var(--accent);opacity:1}.bars .ours{font-weight:600}
details{margin-top:.8rem;font-size:.875rem}summary{cursor:pointer;color:var(--accent)}
.num{font-variant-numeric:tabular-nums;text-align:right;white-space:nowrap}
.notes{background:var(--note);border-radius:6px;padding:.6rem 1rem;margin:1.2rem 0;list-style:none}
.notes li{margin:.2rem 0;overflow-wrap:anywhere}
.scroll{overflow-x:auto;max-width:100%;margin:.6rem 0 1rem}
table{border-collapse:collapse;font-size:.875rem}
th,td{padding:.35rem .6rem;text-align:left;border-bottom:1px solid var(--line);vertical-align:middle}
thead th{font-weight:600;vertical-align:bottom;border-bottom:1.5px solid var(--soft)}
th.num,td.num{text-align:right}
.rows thead th{white-space:nowrap}.rows td:first-child{min-width:9rem}
.rows tr.best td{background:var(--card);font-weight:600}
thead button{all:unset;cursor:pointer;font-weight:600}
thead button:focus-visible{outline:2px solid var(--accent);outline-offset:2px}
thead button::after{content:" \\2195";color:var(--soft);font-weight:400}
th[aria-sort=ascending] button::after{content:" \\2191";color:var(--accent)}
th[aria-sort=descending] button::after{content:" \\2193";color:var(--accent)}
.heat{border-collapse:separate;border-spacing:2px}
.heat th{border:0;font-weight:500;white-space:nowrap}
.heat thead th{white-space:normal;min-width:4.2rem;max-width:8rem;text-align:center;font-size:.8rem}
.heat tbody th{position:sticky;left:0;background:var(--paper);text-align:right}
.heat td{border:0;border-radius:3px;text-align:center;min-width:4.2rem;font-variant-numeric:tabular-nums}
.heat td.best{outline:3px solid var(--ink);outline-offset:-1px;font-weight:700}
.heat td.none{color:var(--soft)}
.scale{display:flex;align-items:center;gap:.6rem;font-size:.8rem;color:var(--soft);font-variant-numeric:tabular-nums}
.scale i{flex:0 0 9rem;height:.7rem;border-radius:2px}
.charts{margin-top:1.4rem;display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,24rem),1fr));gap:1.5rem}
figure{margin:0;min-width:0}figcaption{margin:.3rem 0 0}
svg{width:100%;height:auto;max-width:40rem;display:block}
svg text{font-family:inherit}
img{max-width:100%;height:auto;display:block;border-radius:3px}
.pictures{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,11rem),1fr));gap:.9rem}
.pictures.wide{grid-template-columns:repeat(auto-fill,minmax(min(100%,30rem),1fr))}
.pictures img{width:100%}img.small{image-rendering:pixelated}
.pictures.wide figure:only-child{grid-column:1/-1;max-width:56rem}
.per td.bar{min-width:11rem;background:linear-gradient(var(--bar),var(--bar)) no-repeat left center/var(--w) 72%}
dl.facts{display:grid;grid-template-columns:repeat(auto-fit,minmax(11rem,1fr));gap:.9rem 1.5rem;margin:.8rem 0}
.facts dt{color:var(--soft);font-size:.8rem}.facts dd{margin:0;font-variant-numeric:tabular-nums;overflow-wrap:anywhere}
pre{background:var(--card);border-radius:6px;padding:.8rem 1rem;overflow-x:auto;font:.8125rem/1.5 ui-monospace,"DejaVu Sans Mono",Menlo,monospace;margin:.6rem 0}
@media (max-width:44rem){main{padding:1.25rem 1rem 3rem}h1{font-size:1.35rem}
.headline{grid-template-columns:minmax(0,1fr);gap:1.2rem}.score{font-size:2.8rem}
.bars div{grid-template-columns:minmax(0,7.5rem) minmax(0,1fr) 3.2rem}
.pictures{grid-template-columns:repeat(2,minmax(0,1fr))}.pictures.wide{grid-template-columns:minmax(0,1fr)}}
@media print{body{background:#fff}h2{break-after:avoid}figure,tr{break-inside:avoid}}
"""  # noqa: E501 (a rule a line)

# Sorting by the head of a column: numbers as numbers, empty cells last either way.
SCRIPT = """
for (const table of document.querySelectorAll('table[data-sort]')) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement('button');
    button.type = 'button';
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener('click', () => {
      const down = head.getAttribute('aria-sort') !== 'descending';
      heads.forEach(h => h.removeAttribute('aria-sort'));
      head.setAttribute('aria-sort', down ? 'descending' : 'ascending');
      const rows = [...table.tBodies[0].rows].map((row, place) => {
        const text = row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
        return {row, place, text, number: text === '' ? NaN : Number(text)};
      });
      const numbers = rows.every(r => r.text === '' || !Number.isNaN(r.number));
      rows.sort((a, b) => {
        if ((a.text === '') !== (b.text === '')) return a.text === '' ? 1 : -1;
        const order = numbers ? a.number - b.number : a.text.localeCompare(b.text);
        return (down ? -order : order) || a.place - b.place;
      });
      table.tBodies[0].append(...rows.map(r => r.row));
    });
  });
}
"""


def style() -> str:
    """Rules for a light and a dark page."""
    light = {**_LIGHT, **{f'x{c[1:]}': c for c in DARK}}
    night = {**_NIGHT, **{f'x{c[1:]}': other for c, other in DARK.items()}}
    return (
        f':root{{color-scheme:light dark;{_variables(light)}}}\n'
        f'@media (prefers-color-scheme:dark){{:root{{{_variables(night)}}}}}{_RULES}'
    )


def _variables(values: dict[str, str]) -> str:
    return ''.join(f'--{name}:{value};' for name, value in values.items())
