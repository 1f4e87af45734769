"""Texts that somebody hopes a page takes for more than text: `tag` marks what each would set.

A payload that fires calls `window.fired(N)` or loads `/fired`, so that a page where one did can be
told from one where none did.
"""

from __future__ import annotations

FIRE = "fired(1)"

TAGS = (
    f"<script>{FIRE}</script>",
    f"<ScRiPt >{FIRE}</sCrIpT >",
    f"<script src=data:text/javascript,{FIRE}></script>",
    f"<scr<script>ipt>{FIRE}</scr</script>ipt>",
    f"</td></tr></table><script>{FIRE}</script>",
    f"</pre><script>{FIRE}</script>",
    f"</title><script>{FIRE}</script>",
    f"</textarea><script>{FIRE}</script>",
    f"</style><script>{FIRE}</script>",
    f"--><script>{FIRE}</script>",
    f"]]><script>{FIRE}</script>",
    f"<img src=x onerror={FIRE}>",
    f"<img src=x onerror='{FIRE}'>",
    f'<img/src="x"/onerror={FIRE}>',
    f"<image src=x onerror={FIRE}>",
    f"<svg onload={FIRE}>",
    f"<svg><script>{FIRE}</script></svg>",
    f"<svg><animate onbegin={FIRE} attributeName=x dur=1s>",
    f"<svg><a xlink:href=javascript:{FIRE}><text y=20>x</text></a></svg>",
    f"<svg><foreignObject><body onload={FIRE}></foreignObject></svg>",
    f"<math><mi xlink:href=javascript:{FIRE}>x</mi></math>",
    f"<body onload={FIRE}>",
    f"<iframe srcdoc='<script>parent.{FIRE}</script>'></iframe>",
    f"<iframe src=javascript:parent.{FIRE}></iframe>",
    f"<object data=javascript:{FIRE}></object>",
    f"<embed src=javascript:{FIRE}>",
    f"<video src=x onerror={FIRE}></video>",
    f"<video><source onerror={FIRE}></video>",
    f"<audio src=x onerror={FIRE}>",
    f"<details open ontoggle={FIRE}>x</details>",
    f"<input autofocus onfocus={FIRE}>",
    f"<select autofocus onfocus={FIRE}>",
    f"<marquee onstart={FIRE}>x</marquee>",
    f"<style>@keyframes x{{}}</style><b style=animation-name:x onanimationstart={FIRE}>x</b>",
    f"<a href=javascript:{FIRE} id=click>x</a>",
    f"<form action=javascript:{FIRE}><button>x</button></form>",
    f"<button formaction=javascript:{FIRE} form=enter>x</button>",
    f"<meta http-equiv=refresh content='0;url=javascript:{FIRE}'>",
    "<meta http-equiv=refresh content='0;url=/fired'>",
    "<base href=//evil.example.com/>",
    "<link rel=stylesheet href=/fired>",
    "<style>body{display:none}</style>",
    f"<noscript><p title='</noscript><img src=x onerror={FIRE}>'></noscript>",
    f"<template><script>{FIRE}</script></template>",
    f"<xss id=x tabindex=1 onfocus={FIRE}></xss>",
    "<plaintext>",
    "<!--",
    "<![CDATA[",
    "<table><tr><td>",
)
"""Elements; each is what a page shows of it, whole."""

PARTS = (
    f'" onmouseover="{FIRE}" autofocus onfocus="{FIRE}" x="',
    f"' onmouseover='{FIRE}' autofocus onfocus='{FIRE}' x='",
    f"` onfocus={FIRE} autofocus `",
    f"javascript:{FIRE}",
    f"JaVaScRiPt&colon;{FIRE}",
    f"data:text/html,<script>{FIRE}</script>",
    f"vbscript:{FIRE}",
    f"&lt;script&gt;{FIRE}&lt;/script&gt;",
    f"&#60;script&#62;{FIRE}&#60;/script&#62;",
    f"%3Cscript%3E{FIRE}%3C/script%3E",
    f"\\u003cscript\\u003e{FIRE}\\u003c/script\\u003e",
    f"+ADw-script+AD4-{FIRE}+ADw-/script+AD4-",
    f"＜script＞{FIRE}＜/script＞",
    "{{ 7*191 }}",
    "{% set x = 1 %}{{ x.__class__ }}",
    "{# gone #}",
    "${7*191}",
    "#{7*191}",
    "<%= 7*191 %>",
    "{{constructor.constructor('" + FIRE + "')()}}",
    f"';{FIRE};//",
    f'";{FIRE};//',
    f"</script><script>{FIRE}//",
    "data: forged",
    "../../etc/passwd",
    "//evil.example.com/x",
    "?part=1&stream=stdout#x",
)
"""What breaks out of an attribute, a script, a template, an address or an event."""

CONTROLS = {
    "\x1b[2J\x1b]0;title\x07": "\\e[2J\\e]0;title\\x07",
    "\x9b31m": "\\x9b31m",
    "a\u202ebca": "a\\u202ebca",
    "\u2066x\u2069": "\\u2066x\\u2069",
    "\u200f\u200e\u061c": "\\u200f\\u200e\\u061c",
    "a\u200bb\ufeff": "a\\u200bb\\ufeff",
    "\u2028\u2029": "\\u2028\\u2029",
    "a\x08b\x7f": "a\\x08b\\x7f",
    "\U000e0041": "\\U000e0041",
}
"""What is not seen, or moves what is: and the escape that a page shows instead."""

LONG = "L" * 20_000

FIRING = (TAGS[0], *TAGS[11:14], TAGS[15], TAGS[30])
"""Elements that each fire at once in a page that escapes nothing, wherever they stand."""

CORPUS = (*TAGS, *PARTS)
"""What is seen as it is written."""
