"""How the pages look, and the few lines of script that show details. Nothing is loaded from anywhere."""

from __future__ import annotations

# Shared by the page and the notebook. Colours are named once; everything else is ink at some strength, so that the
# notebook's version follows whatever ground it stands on.
_BASE = """
.rs {
  --rs-soft: color-mix(in srgb, currentColor 66%, transparent);
  --rs-rule: color-mix(in srgb, currentColor 14%, transparent);
  --rs-fill: color-mix(in srgb, currentColor 4%, transparent);
  --rs-fwd: #2f6fde; --rs-bwd: #c2662d;
  font: 13px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  font-variant-numeric: tabular-nums; -webkit-print-color-adjust: exact; print-color-adjust: exact;
}
.rs * { box-sizing: border-box }
.rs h1 { font-size: 21px; line-height: 1.25; font-weight: 650; letter-spacing: -.01em; margin: 0 }
.rs h2 { font-size: 15px; font-weight: 650; margin: 0 0 2px }
.rs h3 { font-size: 14px; font-weight: 650; margin: 0 0 8px; overflow-wrap: anywhere }
.rs p { margin: 0 }
.rs .rs-soft { color: var(--rs-soft) }
.rs .rs-num { text-align: right; white-space: nowrap }
.rs .rs-word { white-space: nowrap }
.rs .rs-mono { font-family: ui-monospace, "SF Mono", Menlo, Consolas, monospace; font-size: 11.5px }
.rs span.rs-bwd, .rs td.rs-bwd { color: var(--rs-bwd) }
.rs table { border-collapse: collapse; border: 0; margin: 0; font-size: 12.5px; color: inherit; background: none }
.rs tr { background: none }
.rs th, .rs td {
  padding: 4px 10px 4px 0; text-align: left; font-weight: 400; vertical-align: top;
  border: 0; border-bottom: 1px solid var(--rs-rule);
}
.rs thead th { color: var(--rs-soft); font-size: 11.5px }
.rs tbody tr:last-child > * { border-bottom: 0 }
.rs td:last-child, .rs th:last-child { padding-right: 0 }
.rs-kpis { display: flex; flex-wrap: wrap; gap: 10px 38px; margin: 0 }
.rs-kpis div { min-width: 88px }
.rs-kpis dt { color: var(--rs-soft); font-size: 11.5px; font-weight: 400 }
.rs-kpis dd { margin: 0; font-size: 19px; line-height: 1.35; font-weight: 600; white-space: nowrap }
.rs-kpis small { display: block; font-size: 11.5px; font-weight: 400; color: var(--rs-soft) }
.rs-legend { display: inline-flex; flex-wrap: wrap; gap: 2px 14px; font-size: 12px; margin-bottom: 12px }
.rs-chip { display: inline-block; width: 9px; height: 9px; border-radius: 2px; margin-right: 6px }
.rs-graph { display: block; font-size: 11.5px }
.rs-graph text, .rs-graph .rs-soft { fill: currentColor }
.rs-graph .rs-name { font-size: 13px; font-weight: 600 }
.rs-graph .rs-pill .rs-name { font-weight: 500; font-size: 12px }
.rs-graph .rs-alarm { fill: var(--rs-fwd); font-weight: 600 }
.rs-frame { fill: var(--rs-fill); stroke: var(--rs-rule) }
.rs-pill .rs-frame { fill: none }
.rs-line { fill: none }
.rs-local .rs-line { stroke: var(--rs-soft); stroke-opacity: .6 }
.rs-local .rs-head { fill: var(--rs-soft) }
.rs-cut.rs-fwd .rs-line { stroke: var(--rs-fwd) }
.rs-cut.rs-fwd .rs-head, .rs-graph .rs-label.rs-fwd text:first-child { fill: var(--rs-fwd) }
.rs-cut.rs-bwd .rs-line { stroke: var(--rs-bwd) }
.rs-cut.rs-bwd .rs-head, .rs-graph .rs-label.rs-bwd text:first-child { fill: var(--rs-bwd) }
.rs-label text:first-child { font-weight: 600 }
.rs .rs-matrix td, .rs .rs-matrix th { border: 0; padding: 3px 8px }
.rs .rs-matrix td {
  text-align: right; vertical-align: middle; min-width: 58px; height: 28px; font-size: 12px;
  background-clip: padding-box; border: 1px solid transparent;
}
.rs .rs-matrix tbody th { white-space: nowrap; padding-left: 0; vertical-align: middle }
.rs .rs-matrix tfoot th { padding-left: 0; color: var(--rs-soft); vertical-align: middle }
.rs .rs-matrix thead th { text-align: right; white-space: nowrap }
.rs .rs-matrix thead th:first-child { text-align: left; padding-left: 0 }
.rs .rs-matrix .rs-total { color: var(--rs-soft) }
.rs .rs-matrix td.rs-self { background: repeating-linear-gradient(135deg, var(--rs-rule) 0 1px, transparent 1px 5px) }
.rs .rs-small td { min-width: 0; width: 10px; height: 10px; padding: 0; line-height: 0; border-width: 0 1px 1px 0 }
.rs .rs-small tbody th { font-size: 9px; line-height: 10px; padding: 0 6px 0 0; height: 10px }
.rs .rs-small thead th { padding: 0 0 4px; vertical-align: bottom; text-align: center }
.rs .rs-small thead th span { writing-mode: vertical-rl; font-size: 9px; line-height: 10px }
.rs .rs-small .rs-chip { width: 7px; height: 7px; margin: 0 5px 0 0 }
.rs .rs-small thead .rs-chip { display: none }
.rs .rs-small thead th:last-child { font-size: 10px; padding: 0 0 4px 8px }
.rs .rs-small thead th:first-child { font-size: 10px }
.rs .rs-small tbody .rs-total { width: auto; padding-left: 8px; font-size: 9px; line-height: 10px; white-space: nowrap }
.rs .rs-small tfoot th { font-size: 10px; padding-top: 6px }
.rs .rs-small tfoot td:last-child { font-size: 10px; line-height: 1; padding: 6px 0 0 8px; white-space: nowrap }
.rs-strip { display: block; width: 100%; height: 9px }
.rs-graph .rs-strip { width: auto }
"""

_PAIRS = """
.rs-side-a { background: var(--rs-fwd) }
.rs-side-b { background: var(--rs-bwd) }
.rs .rs-track .rs-side-b { background: var(--rs-bwd) }
.rs-two .rs-track + .rs-track { margin-top: 2px }
.rs .rs-two .rs-track { height: 6px }
.rs .rs-figures td, .rs .rs-figures th { padding-right: 34px }
.rs-figures td { font-weight: 600 }
.rs-figures td.rs-soft { font-weight: 400 }
.rs-pairs { width: 100% }
.rs .rs-pairs td, .rs .rs-pairs th { padding-top: 3px; padding-bottom: 3px }
.rs .rs-pairs tbody th { white-space: nowrap }
.rs .rs-pairs .rs-strip-cell { width: 17%; min-width: 110px; vertical-align: middle }
.rs-pairs .rs-strip { height: 13px; background: var(--rs-fill) }
.rs .rs-recut { font-weight: 650 }
.rs .rs-more { color: var(--rs-bwd) }
.rs .rs-less { color: var(--rs-soft) }
.rs-twins { display: grid; grid-template-columns: minmax(0, 1fr) minmax(0, 1fr); gap: 28px; align-items: start }
"""

_PAGE = """
:root { color-scheme: light dark; --rs-page: #fff; --rs-ink: #1d2127 }
html { background: var(--rs-page); color: var(--rs-ink) }
body { margin: 0 }
main { max-width: 1240px; margin: 0 auto; padding: 30px 28px 44px }
header { margin-bottom: 20px }
.rs .rs-sub { margin-top: 3px }
.rs .rs-part { margin-top: 34px; padding-top: 18px; border-top: 1px solid var(--rs-rule) }
.rs .rs-lead { max-width: 110ch; margin-bottom: 14px }
.rs-split { display: grid; grid-template-columns: minmax(0, 1fr) 460px; gap: 32px; align-items: start }
.rs-split.rs-even { grid-template-columns: minmax(0, auto) minmax(280px, 1fr); gap: 56px }
.rs-scroll { overflow-x: auto }
.rs-scroll .rs-graph { margin: 0 auto }
.rs-details {
  position: sticky; top: 18px; padding: 16px 18px; border: 1px solid var(--rs-rule); border-radius: 8px;
  max-height: calc(100vh - 36px); overflow: auto;
}
.rs-details table { width: 100%; margin-top: 14px; font-size: 12px }
.rs-details td { overflow-wrap: anywhere }
.rs-details dl { display: grid; grid-template-columns: auto 1fr; gap: 1px 16px; margin: 10px 0 0; font-size: 12.5px }
.rs-details dt { color: var(--rs-soft) }
.rs-details dd { margin: 0 }
.rs-link { font: inherit; color: inherit; background: none; border: 0; padding: 0; text-align: left; cursor: pointer;
  text-decoration: underline; text-decoration-color: var(--rs-rule); text-underline-offset: 3px }
.rs-link:hover { text-decoration-color: currentColor }
.rs-details > section > .rs-link { display: block; color: var(--rs-soft); margin-bottom: 8px; font-size: 12px }
.rs-cell { display: inline-block; width: 16px; height: 9px; margin-right: 6px; border: 1px solid var(--rs-rule) }
.rs-layers { width: 100% }
.rs .rs-layers td, .rs .rs-layers th { padding-top: 3px; padding-bottom: 3px }
.rs .rs-layers tbody th { white-space: nowrap; width: 1%; padding-right: 18px }
.rs .rs-layers td:nth-child(2) { min-width: 320px; width: 50%; padding-right: 22px; vertical-align: middle }
.rs-layers .rs-strip { height: 13px; background: var(--rs-fill) }
.rs-layers .rs-chosen { font-weight: 650 }
.rs-tall { max-height: 640px; overflow: auto; border: 1px solid var(--rs-rule); border-radius: 8px; padding: 0 14px }
.rs-tall thead th { position: sticky; top: 0; background: var(--rs-page); z-index: 1; padding-top: 8px }
.rs-stack { display: flex; height: 9px; gap: 1px; border-radius: 2px; overflow: hidden }
.rs-stack i { display: block; height: 100% }
.rs-switch { margin-right: 26px; font-size: 12px; cursor: pointer }
.rs-switch-box { accent-color: var(--rs-bwd); margin: 0 7px 0 0; vertical-align: -2px }
.rs-switch-box:not(:checked) ~ .rs-scroll .rs-bwd { display: none }
.rs-graph .rs-hit { fill: none; stroke: transparent; stroke-width: 18px }
.rs-graph [data-key] { cursor: pointer; outline: none }
.rs-graph [data-key]:hover .rs-frame, .rs-graph [data-key]:focus-visible .rs-frame { stroke: var(--rs-soft) }
.rs-graph .rs-chosen .rs-frame { stroke: currentColor; stroke-width: 1.6 }
.rs-graph .rs-arrow[data-key]:hover, .rs-graph .rs-arrow:focus-visible { opacity: .75 }
.rs-graph .rs-arrow.rs-chosen .rs-hit { stroke: var(--rs-rule) }
.rs-track { display: block; height: 8px; background: var(--rs-fill); border-radius: 2px; overflow: hidden }
.rs-track i { display: block; height: 100%; background: var(--rs-fwd); border-radius: 2px; min-width: 1px }
.rs-bars { width: 100% }
.rs .rs-bars th:first-child { white-space: nowrap; padding-right: 18px }
.rs .rs-bars td { width: 24%; padding-right: 22px }
.rs-bar { display: grid; grid-template-columns: minmax(40px, 1fr) 60px; gap: 0 8px; align-items: center }
.rs-bar b { font-weight: 500; white-space: nowrap; text-align: right }
.rs-bar small { font-size: 11.5px; color: var(--rs-soft); white-space: nowrap }
.rs-bars td:nth-child(2) .rs-bar, .rs-bars td:nth-child(3) .rs-bar { grid-template-columns: minmax(40px, 1fr) 60px 68px }
.rs .rs-bars td:last-child { padding-right: 0 }
.rs-bar .rs-seen { background: repeating-linear-gradient(135deg, var(--rs-colour) 0 2px, transparent 2px 4px) }
.rs-reasons { width: 100% }
.rs .rs-reasons th { white-space: nowrap; width: 1%; padding-right: 22px }
.rs .rs-reasons td:nth-child(2) { width: 60% }
.rs .rs-reasons td { vertical-align: middle }
.rs-wide { width: 100% }
.rs .rs-wide td:nth-child(6), .rs .rs-wide th:nth-child(6) { padding-left: 22px }
.rs-wide .rs-track { margin-top: 6px; min-width: 110px }
.rs-wide td { overflow-wrap: anywhere }
.rs-notes { display: grid; grid-template-columns: auto 1fr; gap: 4px 22px; margin: 0; max-width: 110ch }
.rs-notes dt { color: var(--rs-soft) }
.rs-notes dd { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere }
details summary { cursor: pointer; color: var(--rs-soft); margin: 10px 0 }
footer { margin-top: 36px; font-size: 11.5px }
@media (prefers-color-scheme: dark) {
  :root { --rs-page: #14171b; --rs-ink: #e4e7eb }
  .rs { --rs-fwd: #6ea3ff; --rs-bwd: #e8955c }
}
@media (max-width: 1020px) {
  .rs-split, .rs-split.rs-even { grid-template-columns: minmax(0, 1fr); gap: 22px }
  .rs-details { position: static; max-height: none }
}
@media print {
  :root { color-scheme: light; --rs-page: #fff; --rs-ink: #000 }
  .rs { --rs-fwd: #2f6fde; --rs-bwd: #c2662d }
  main { max-width: none; padding: 0 }
  .rs .rs-part { break-inside: avoid-page }
  .rs-switch, .rs-switch-box { display: none }
  .rs-split, .rs-split.rs-even { grid-template-columns: minmax(0, 1fr); gap: 22px }
  .rs-details { position: static; max-height: none; break-inside: avoid }
}
"""

_HEAT = "".join(
    f".rs .rs-h{i} {{ background-color: color-mix(in srgb, var(--rs-fwd) {6 + 6 * i}%, transparent) }}\n"
    for i in range(1, 11)
)

# The cells of strips: s1 to s5 up to an even share, o1 to o4 above it.
_CELLS = "".join(
    f".rs .rs-{name} {{ fill: {colour}; background-color: {colour} }}\n"
    for name, colour in (
        *((f"s{i}", f"color-mix(in srgb, var(--rs-fwd) {4 + 16 * i}%, transparent)") for i in range(1, 6)),
        *((f"o{i}", f"color-mix(in srgb, var(--rs-bwd) {34 + 16 * i}%, transparent)") for i in range(1, 5)),
    )
)

NOTEBOOK_STYLE = _BASE + _HEAT + _CELLS + _PAIRS
PAGE_STYLE = NOTEBOOK_STYLE + _PAGE

# Shows the details of the box, arrow or name that is clicked, or chosen with Enter; names the machine of a strip's cell.
SCRIPT = """
(function () {
  var main = document.querySelector('main'), panel = document.querySelector('.rs-details');
  if (!main || !panel) return;
  var names = JSON.parse(main.getAttribute('data-machines') || '[]');
  function choose(item) {
    var key = item.getAttribute('data-key');
    panel.querySelectorAll('[data-for]').forEach(function (section) {
      section.hidden = section.getAttribute('data-for') !== key;
    });
    mark(key);
    panel.scrollTop = 0;
    if (!panel.contains(item)) panel.scrollIntoView({ block: 'nearest' });
  }
  function mark(key) {
    main.querySelectorAll('.rs-chosen').forEach(function (other) { other.classList.remove('rs-chosen'); });
    main.querySelectorAll('[data-key="' + key + '"]').forEach(function (item) { item.classList.add('rs-chosen'); });
  }
  main.addEventListener('click', function (event) {
    var item = event.target.closest('[data-key]');
    if (item) choose(item);
  });
  main.addEventListener('keydown', function (event) {
    var item = event.target.closest('g[data-key]');
    if (item && (event.key === 'Enter' || event.key === ' ')) { event.preventDefault(); choose(item); }
  });
  var open = panel.querySelector('[data-for]:not([hidden])');
  if (open) mark(open.getAttribute('data-for'));
  main.addEventListener('mousemove', function (event) {
    var strip = event.target.closest('.rs-strip'), holder = strip && strip.closest('[data-shares]');
    if (!holder) return;
    var shares = holder.getAttribute('data-shares').split(' '), box = strip.getBoundingClientRect();
    var i = Math.min(shares.length - 1, Math.max(0, Math.floor(shares.length * (event.clientX - box.left) / box.width)));
    holder.title = names[i] + ': ' + shares[i] + ' % of an even share';
  });
})();
"""
