"""How the page looks, and the little that it does: letters, colours, zoom and a line under the pointer.

Everything is in the page: no letter, style or script comes from elsewhere. Without scripts the page says
the same. Colours are chosen so that no meaning hangs on red against green alone: states have words or
patterns, faults have lanes of their own.
"""

from __future__ import annotations

from typing import Final

CSS: Final = """
:root{color-scheme:light dark;--paper:#fff;--card:#fafaf8;--ink:#1d2127;--quiet:#626b77;--rule:#e3e4e0;
--grid:#ecece8;--good:#1f7a4d;--bad:#b3261e;--void:#8a6100;--follower:#dfe3e8;--up:#eceff2;--candidate:#f0b429;
--down:#5a626d;--lost:#1d2127;--ok:#7fa9d6;--failed:#e0a03c;--unknown:#c9423a;--p50:#1f5f99;--p99:#a05a9c;
--furthest:#a9b1bb;--own:#1d2127;--t0:#1f7f86;--t1:#3d63b8;--t2:#6b4fae;--t3:#3b8a54;--t4:#2f8fc0;
--process:#c8473f;--machine:#7d2f57;--network:#d98324;--disk:#8a6a3d;--clock:#c05fa2;--label:8.5rem}
@media (prefers-color-scheme:dark){:root{--paper:#14171b;--card:#1b1f25;--ink:#e6e8eb;--quiet:#98a2ae;
--rule:#2c323a;--grid:#252a31;--good:#56c08a;--bad:#ff7b72;--void:#e2b04a;--follower:#343b45;--up:#2a3038;
--candidate:#d99a1c;--down:#8a929d;--lost:#000;--ok:#46739f;--failed:#c98a2b;--unknown:#e0625a;--p50:#7db8ee;
--p99:#d295ce;--furthest:#5b6570;--own:#e6e8eb;--t0:#2a8f96;--t1:#5578cc;--t2:#8268c4;--t3:#4a9c65;
--t4:#3f9ccb;--process:#e0675f;--machine:#b85a8a;--network:#e39a48;--disk:#b0905f;--clock:#d07fb6}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",
"Noto Sans","DejaVu Sans",sans-serif;-webkit-text-size-adjust:100%}
main{max-width:1320px;margin:0 auto;padding:1.5rem clamp(.8rem,3vw,2rem) 4rem}
h1{font-size:1.35rem;margin:0;font-weight:600;text-wrap:balance}
h2{font-size:1.15rem;margin:2.6rem 0 .2rem}
h3{font-size:.9rem;margin:0;display:flex;gap:.4rem;align-items:baseline}
.card p{margin:0 0 .3rem;font-size:.78rem;white-space:nowrap;overflow:hidden;text-overflow:ellipsis}
.card .tick{paint-order:stroke;stroke:var(--card);stroke-width:3px}
.quiet,small,.lead{color:var(--quiet);font-weight:400}
.lead{margin:.1rem 0 .8rem;max-width:75ch}
header{display:flex;gap:1.2rem;align-items:center;flex-wrap:wrap;padding-bottom:1rem}
header>div{flex:1 1 18rem;min-width:0}
.verdict{font-size:1.5rem;font-weight:700;letter-spacing:.03em;padding:.45rem 1.1rem;border-radius:.5rem;
color:#fff;background:var(--bad)}
@media (prefers-color-scheme:dark){.verdict{color:#101214}}
.verdict.clean{background:var(--good)}.verdict.void{background:var(--void)}
.reasons{margin:0 0 1rem;padding:.7rem 1rem;border-left:4px solid var(--bad);background:var(--card)}
.reasons.void{border-color:var(--void)}
.reasons p{margin:.2rem 0;white-space:pre-wrap;overflow-wrap:anywhere}
pre,code{font:12.5px/1.5 ui-monospace,"SF Mono","DejaVu Sans Mono",Menlo,Consolas,monospace}
pre{white-space:pre-wrap;overflow-wrap:anywhere;margin:.3rem 0}
.command{display:flex;gap:.6rem;align-items:center;background:var(--card);border:1px solid var(--rule);
border-radius:.4rem;padding:.35rem .7rem;margin:.4rem 0 0}
.command code{flex:1;overflow-wrap:anywhere}
button{font:inherit;font-size:.8rem;color:var(--ink);background:var(--paper);border:1px solid var(--rule);
border-radius:.3rem;padding:.1rem .55rem;cursor:pointer}
button[aria-pressed=true]{background:var(--ink);color:var(--paper)}
.figures{display:grid;grid-template-columns:repeat(auto-fill,minmax(10rem,1fr));gap:.5rem;margin:0}
.figures div{background:var(--card);padding:.5rem .8rem;border:1px solid var(--rule);border-radius:.4rem}
.figures dt{color:var(--quiet);font-size:.8rem}
.figures dd{margin:0;font-size:1.2rem;font-weight:600;font-variant-numeric:tabular-nums;
overflow-wrap:anywhere}
.figures dd.long{font:.85rem/1.5 ui-monospace,"DejaVu Sans Mono",Menlo,Consolas,monospace}
.figures dd.note{font-size:.8rem;font-weight:400;color:var(--quiet)}
.figures .bad{color:var(--bad)}
.tools{display:flex;flex-wrap:wrap;gap:.3rem 1.1rem;align-items:center;margin:.3rem 0 .5rem;font-size:.82rem;
color:var(--quiet)}
.tools span{display:inline-flex;gap:.35rem;align-items:center}
.zoom{margin-left:auto}
.key,.swatch{display:inline-block;width:.8em;height:.8em;border-radius:2px;flex:none}
.scroll{overflow-x:auto;max-width:100%}
.lanes{position:relative;width:calc(100% * var(--zoom,1));min-width:calc(46rem * var(--zoom,1))}
.lane{display:grid;grid-template-columns:var(--label) minmax(0,1fr)}
.label{position:sticky;left:0;z-index:2;background:var(--paper);padding-right:.5rem;font-size:.8rem;
line-height:1.15}
.fault .label{line-height:15px}
.label small{display:block}
.label .name small{display:inline}
.name{display:flex;gap:.35rem;align-items:baseline;white-space:nowrap}
.node .name{font-size:.95rem;line-height:20px}
.chart .label b{display:block}
.value{position:absolute;right:.4rem;transform:translateY(-50%);color:var(--quiet);font-size:.7rem;
font-variant-numeric:tabular-nums}
.chart .label small{max-width:5rem}
.label .note{position:absolute;color:var(--quiet);font-size:.72rem}
.lane-head{position:sticky;left:0;font-size:.75rem;font-weight:600;color:var(--quiet);border-bottom:1px solid
var(--rule);margin:.7rem 0 .25rem;text-transform:uppercase;letter-spacing:.06em}
.lane-head span{position:sticky;left:0}
.lane.node{margin-bottom:.5rem}.lane.chart{margin:.5rem 0 .7rem}
svg.plot{display:block;overflow:visible}
.grid{stroke:var(--grid);stroke-width:1}
.tick{fill:var(--quiet);font-size:11px;font-variant-numeric:tabular-nums}
.minor{display:none}.fine .minor{display:inline}
.bar{shape-rendering:crispEdges}
.family-process{fill:var(--process);stroke:var(--process);background:var(--process)}
.family-machine{fill:var(--machine);stroke:var(--machine);background:var(--machine)}
.family-network{fill:var(--network);stroke:var(--network);background:var(--network)}
.family-disk{fill:var(--disk);stroke:var(--disk);background:var(--disk)}
.family-clock{fill:var(--clock);stroke:var(--clock);background:var(--clock)}
rect[class*=family-]{fill-opacity:.62;stroke-width:0}
rect[class*=family-].instant{fill-opacity:1}
rect.lasting{fill-opacity:.22}
.state-follower{fill:var(--follower)}.state-up{fill:var(--up)}.state-candidate{fill:var(--candidate)}
.state-down{fill:url(#hatch)}.state-lost{fill:var(--lost)}
.term-0{fill:var(--t0)}.term-1{fill:var(--t1)}.term-2{fill:var(--t2)}.term-3{fill:var(--t3)}.term-4{fill:var(--t4)}
.key.state-leader{background:linear-gradient(90deg,var(--t0) 33%,var(--t1) 33% 66%,var(--t2) 66%)}
.key.state-follower{background:var(--follower)}.key.state-candidate{background:var(--candidate)}
.key.state-down{background:repeating-linear-gradient(45deg,var(--down) 0 2px,transparent 2px 4px)}
.key.still{background:repeating-linear-gradient(90deg,var(--ink) 0 1px,transparent 1px 3px)}
.key.calls-ok{background:var(--ok)}.key.calls-failed{background:var(--failed)}
.key.calls-unknown{background:var(--unknown)}.key.p50{background:var(--p50);height:3px}
.key.p99{background:var(--p99);height:3px}.key.own{background:var(--own);height:2px}
.key.furthest{background:var(--furthest);height:2px}.key.healed{background:var(--good);width:2px}
.still{fill:url(#stripes)}
.election{fill:var(--candidate);stroke:var(--paper);stroke-width:1}
.in-bar{font-size:11px;fill:#fff;pointer-events:none;font-weight:600}
.in-down{fill:var(--ink);stroke:var(--paper);stroke-width:3px;paint-order:stroke}
.commit-ground{fill:var(--card)}
.line{fill:none;stroke-width:1.5px;vector-effect:non-scaling-stroke;stroke-linejoin:round}
.line.furthest{stroke:var(--furthest);stroke-width:3px}.line.own{stroke:var(--own)}
.line.p50{stroke:var(--p50)}.line.p99{stroke:var(--p99)}
.calls-ok{fill:var(--ok)}.calls-failed{fill:var(--failed)}.calls-unknown{fill:var(--unknown)}
.sense{fill:transparent}.sense:hover{fill:var(--ink);fill-opacity:.08}
.mark{stroke-width:2px}.mark.healed{stroke:var(--good)}.mark.failed{stroke:var(--bad)}
.mark.begins{stroke:var(--ink);stroke-width:1px;stroke-dasharray:3 2}
.fire{fill:var(--bad);fill-opacity:.14}.peace{fill:var(--good);fill-opacity:.25}
.phase{font-size:10.5px;fill:var(--ink)}.phase.bad{fill:var(--bad);font-weight:700}
.stall{fill:var(--ink);fill-opacity:.08}
.dot{fill:var(--t1);stroke:var(--paper)}.dot.company{fill:var(--network)}
.cursor{position:absolute;top:0;bottom:0;width:1px;background:var(--ink);opacity:.55;pointer-events:none;z-index:1}
.cursor span{position:absolute;top:0;left:4px;font-size:.72rem;background:var(--paper);padding:0 .2rem;
white-space:nowrap}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(17rem,1fr));gap:1rem}
.card{border:1px solid var(--rule);border-radius:.5rem;padding:.6rem .7rem;background:var(--card);min-width:0}
table{border-collapse:collapse;font-size:.85rem;font-variant-numeric:tabular-nums;width:100%}
th,td{text-align:left;padding:.28rem .6rem;border-bottom:1px solid var(--rule);vertical-align:top}
tr.none td{color:var(--quiet)}tr.none .swatch{opacity:.35}
th{color:var(--quiet);font-weight:500;vertical-align:bottom}
.number{text-align:right;white-space:nowrap}
td .swatch{margin-right:.4rem}
.recovery td:first-child,.around td:first-child,.checks b,.status{white-space:nowrap}
em.bad,.bad{color:var(--bad);font-style:normal}
.status.ok{color:var(--good)}.status.violation{color:var(--bad);font-weight:700}
.status.inconclusive{color:var(--void)}.status.not{color:var(--quiet)}
.theory{max-width:75ch;display:inline-block}
details{margin:.8rem 0}summary{cursor:pointer;font-weight:600}
.story{max-height:36rem;overflow:auto;background:var(--card);border:1px solid var(--rule);padding:.6rem;
border-radius:.4rem}
@media (max-width:640px){:root{--label:6.2rem}body{font-size:14px}.label{font-size:.72rem}
.chart .label small{display:none}.zoom{margin-left:0}th,td{padding:.28rem .4rem}
.checks,.checks tbody{display:block}.checks tr{display:grid;
grid-template-columns:auto 1fr auto;border-bottom:1px solid var(--rule)}
.checks td{border:0}.checks td:last-child{grid-column:1/-1;padding-top:0}.checks thead{display:none}}
@media print{:root{color-scheme:light}main{max-width:none;padding:0}.zoom,.command button{display:none}
.lanes{width:100%!important;min-width:0}.scroll{overflow:visible}.card,.lane,tr{break-inside:avoid}
h2{break-after:avoid}body{font-size:11px;-webkit-print-color-adjust:exact;print-color-adjust:exact}
.story{max-height:none}}
"""

SCRIPT: Final = """
(function(){
var lanes=document.querySelector('.lanes'),scroll=lanes&&lanes.parentNode;
if(lanes){
var buttons=document.querySelectorAll('.zoom button');
buttons.forEach(function(b){b.onclick=function(){
var middle=(scroll.scrollLeft+scroll.clientWidth/2)/scroll.scrollWidth;
lanes.style.setProperty('--zoom',b.value);lanes.classList.toggle('fine',+b.value>=4);
buttons.forEach(function(o){o.setAttribute('aria-pressed',o===b)});
scroll.scrollLeft=middle*scroll.scrollWidth-scroll.clientWidth/2;}});
var cursor=lanes.querySelector('.cursor'),begin=+lanes.dataset.begin,end=+lanes.dataset.end;
lanes.addEventListener('pointermove',function(e){
var plot=lanes.querySelector('svg.plot').getBoundingClientRect();
var share=(e.clientX-plot.left)/plot.width;
cursor.hidden=share<0||share>1;
if(!cursor.hidden){cursor.style.left=(e.clientX-lanes.getBoundingClientRect().left)+'px';
cursor.firstChild.textContent=(begin+share*(end-begin)).toFixed(2)+' s';}});
lanes.addEventListener('pointerleave',function(){cursor.hidden=true;});
}
var copy=document.querySelector('.command button');
if(copy){copy.onclick=function(){navigator.clipboard.writeText(copy.previousSibling.textContent)
.then(function(){copy.textContent='copied';});};}
})();
"""

PATTERNS: Final = (
    '<svg width="0" height="0" style="position:absolute" aria-hidden="true"><defs>'
    '<pattern id="hatch" width="5" height="5" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
    '<rect width="5" height="5" fill="var(--paper)"/><rect width="2" height="5" fill="var(--down)"/>'
    "</pattern>"
    '<pattern id="stripes" width="4" height="4" patternUnits="userSpaceOnUse">'
    '<rect width="1.5" height="4" fill="var(--ink)" fill-opacity=".55"/></pattern>'
    "</defs></svg>"
)
