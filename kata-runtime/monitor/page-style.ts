/** Looks of the page: light and dark as the person's system is, one card for each sandbox where the window is narrow. */

/** Told apart by people who see few colours, and readable on both backgrounds; in the order of the page's phases. */
const PHASE_COLOURS: readonly string[] = ['#4477aa', '#ccbb44', '#66ccee', '#228833', '#ee6677', '#aa3377', '#997755', '#557799'];

export const STYLE = `:root{--ink:#1b1f24;--soft:#59636e;--paper:#fff;--line:#d5dae0;--head:#f3f5f7;--link:#0a58ca;--good:#1a7f37;--bad:#b42318;--wait:#8a5a00}
@media (prefers-color-scheme:dark){:root{--ink:#e6e8ea;--soft:#9aa4ae;--paper:#14171a;--line:#343a40;--head:#1e2327;--link:#79b8ff;--good:#57c46f;--bad:#ff8b80;--wait:#e3b341}}
*{box-sizing:border-box}body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;padding:0 1.5rem;max-width:1500px;color:var(--ink);background:var(--paper)}
h1{font-size:1.4rem;margin:0}#count{margin:.3rem 0 1.2rem;color:var(--soft)}a{color:var(--link)}small,.foot{color:var(--soft);font-size:.85rem}
code{font:.9em ui-monospace,monospace}.nowrap,.state,.phase-name{white-space:nowrap}
table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:.5rem .8rem;border-bottom:1px solid var(--line);vertical-align:top}
th{font-weight:600;background:var(--head);white-space:nowrap}td:first-child{overflow-wrap:anywhere;min-width:11rem}td:last-child{width:32%;min-width:14rem}
.state::before{content:"\\25cf ";font-size:.8em}.state{color:var(--wait)}.state-running{color:var(--good)}.silent,.state-invalid{color:var(--bad)}
.bar{position:relative;height:.9rem;margin:.3rem 0 .2rem;border-radius:3px;overflow:hidden;background:var(--head)}.phase{position:absolute;top:0;bottom:0;min-width:1px;background:#888}
${PHASE_COLOURS.map((colour, index) => `.p${String(index)}{background:${colour}}`).join('')}
@media (max-width:900px){body{margin:1rem auto;padding:0 1rem}table,tbody{display:block}thead{display:none}tr{display:block;border:1px solid var(--line);border-radius:6px;margin-bottom:1rem;padding:.3rem 0}
td,td:last-child{display:block;position:relative;width:auto;border:0;padding:.25rem .8rem .25rem 7rem}td:empty{display:none}td::before{content:attr(data-head);position:absolute;left:.8rem;color:var(--soft)}
td[data-head=Sandbox]{padding-left:.8rem}td[data-head=Sandbox]::before{content:none}}`;
