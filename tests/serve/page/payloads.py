"""Attacks on a page that shows a model's words, made here: a few hundred, in classes. Each calls `trip` if it runs."""

from itertools import product

CALL = "trip()"
HANDLERS = (
    "onerror",
    "onload",
    "onclick",
    "onmouseover",
    "onfocus",
    "ontoggle",
    "onanimationstart",
    "onbegin",
    "onpointerenter",
    "oncontentvisibilityautostatechange",
)
SCHEMES = (
    "javascript:trip()",
    "JaVaScRiPt:trip()",
    "java\tscript:trip()",
    "java\nscript:trip()",
    "\x01javascript:trip()",
    "javascript&colon;trip()",
    "&#106;avascript:trip()",
    "&#x6A;avascript&#x3A;trip()",
    "javascript:%74rip()",
    "vbscript:trip()",
    "data:text/html,<script>trip()</script>",
    "data:text/html;base64,PHNjcmlwdD50cmlwKCk8L3NjcmlwdD4=",
    "data:image/svg+xml,<svg onload=trip()>",
    "blob:trip",
    "file:///etc/passwd",
    "//evil.example/x",
    "\\\\evil.example",
    "http:javascript:trip()",
    "feed:javascript:trip()",
    "view-source:javascript:trip()",
    "jar:javascript:trip()!/",
)


def scripts() -> list[str]:
    bodies = (
        f"<script>{CALL}</script>",
        f"<SCRIPT>{CALL}</SCRIPT>",
        f"<script\n>{CALL}</script\n>",
        f"<script/x>{CALL}</script>",
        f"<scr<script>ipt>{CALL}</scr</script>ipt>",
        f"<script src=data:text/javascript,{CALL}></script>",
        f"<script type=module>{CALL}</script>",
        f"<<script>{CALL}//<</script>",
        f"<script>{CALL}",
        f"<sc\0ript>{CALL}</script>",
    )
    around = ("{}", "> {}", "- {}", "# {}", "| a |\n|---|\n| {} |", "**{}**", "`` ` ``{}", "[{}](https://a.example)")
    return [shape.format(body) for shape, body in product(around, bodies)]


def handlers() -> list[str]:
    shapes = (
        "<img src=x {}=trip()>",
        "<svg {}=trip()></svg>",
        "<details open {}=trip()>x",
        '<a href=# {}="trip()" autofocus>x</a>',
        "<body {}=trip()>",
        "<input {}=trip() autofocus>",
        "![x](x){{{}=trip()}}",
    )
    return [shape.format(handler) for shape, handler in product(shapes, HANDLERS)]


def links() -> list[str]:
    shapes = ("[x]({})", "[x](<{}>)", "![x]({})", "<{}>", "[x][r]\n\n[r]: {}", "[x]: <{}> 'x'\n\n[x]")
    return [shape.format(scheme) for shape, scheme in product(shapes, SCHEMES)]


def tricks() -> list[str]:
    """Breaking out of what markdown makes: titles, alternatives, languages, cells."""
    quotes = (
        '" onclick="trip()',
        "' onclick='trip()",
        '"><script>trip()</script>',
        "&quot; onclick=&quot;trip()",
        "` onclick=`trip()",
    )
    shapes = (
        '[x](https://a.example "{}")',
        "[x](https://a.example/{})",
        "![{}](https://a.example/a.png)",
        "[{}](https://a.example)",
        "```{}\ncode\n```",
        "~~~js {}\ncode\n~~~",
        "[x](https://a.example '{}')",
        "<https://a.example/{}>",
        "| {} |\n|:-:|\n| {} |",
        "mailto:{}@a.example",
    )
    return [shape.replace("{}", quote) for shape, quote in product(shapes, quotes)]


def foreign() -> list[str]:
    """SVG, MathML, templates, and trees that change when they are read a second time."""
    return [
        f"<svg><script>{CALL}</script></svg>",
        f"<svg><style><img src=x onerror={CALL}></style></svg>",
        f"<svg><a xlink:href='javascript:{CALL}'><text>x</text></a></svg>",
        f"<svg><animate onbegin={CALL} attributeName=x dur=1s>",
        f"<svg><foreignObject><iframe srcdoc='<script>parent.{CALL}</script>'></foreignObject></svg>",
        f"<svg><use href='data:image/svg+xml,<svg id=x onload={CALL}>#x'></svg>",
        f"<svg><set attributeName=onclick to={CALL}>",
        f"<math><mtext><table><mglyph><style><img src=x onerror={CALL}>",
        f"<math href='javascript:{CALL}'>x</math>",
        f"<math><maction actiontype=statusline xlink:href=javascript:{CALL}>x</maction></math>",
        f"<math><annotation-xml encoding=text/html><img src=x onerror={CALL}></annotation-xml></math>",
        f"<form><math><mtext></form><form><mglyph><style></math><img src onerror={CALL}>",
        f"<noscript><p title='</noscript><img src=x onerror={CALL}>'>",
        f"<template><img src=x onerror={CALL}></template>",
        f"<textarea><img title='</textarea><img src=x onerror={CALL}>'>",
        f"<xmp><img title='</xmp><img src=x onerror={CALL}>'>",
        f"<listing>&lt;img src=x onerror={CALL}&gt;</listing>",
        f"<!--><img src=x onerror={CALL}>-->",
        f"<!-- --!><img src=x onerror={CALL}>",
        f"<![CDATA[><img src=x onerror={CALL}>]]>",
        f"<?xml ?><img src=x onerror={CALL}>",
        f"</p><img src=x onerror={CALL}>",
        f"<iframe src=javascript:parent.{CALL}></iframe>",
        f"<iframe srcdoc='<script>parent.{CALL}</script>'></iframe>",
        f"<object data=javascript:{CALL}></object>",
        f"<embed src=javascript:{CALL}>",
        f"<base href=javascript:{CALL}//>",
        f"<meta http-equiv=refresh content='0;url=javascript:{CALL}'>",
        f"<form action=javascript:{CALL}><button>x</button></form>",
        f"<button formaction=javascript:{CALL}>x</button>",
        f"<isindex type=image src=x onerror={CALL}>",
        f"<link rel=import href=data:,{CALL}>",
        f"<video><source onerror={CALL}></video>",
        f"<audio src=x onerror={CALL}></audio>",
        f"<marquee onstart={CALL}>x</marquee>",
        f"<portal src=javascript:{CALL}>",
        "<a id=trustedTypes></a><a id=octavo name=policy></a>",
        "<form id=say><input name=value></form>",
    ]


def formulas() -> list[str]:
    """Through the converter of formulas, on its good paths and its bad ones."""
    inside = (
        r"\text{<img src=x onerror=trip()>}",
        r"\href{javascript:trip()}{x}",
        r"\url{javascript:trip()}",
        r"\class{x onclick=trip()}{y}",
        r"\style{background:url(javascript:trip())}{x}",
        r"\color{red;x:expression(trip())}{y}",
        r'\color{"onclick="trip()}{y}',
        r"\unicode{<script>trip()</script>}",
        r"\htmlData{onclick=trip()}{x}",
        r"\mathrm{</math><script>trip()</script>}",
        r"\frac{<script>trip()</script>",
        r"\left(<img src=x onerror=trip()>",
        r"\begin{matrix}<img src=x onerror=trip()>",
        r"</math><img src=x onerror=trip()>",
        r"\text{&lt;script&gt;trip()&lt;/script&gt;}",
        r"\text{&#x3C;img src=x onerror=trip()&#x3E;}",
        r"\unknown{<svg onload=trip()>}",
        r"\def\x{<script>trip()</script>}\x",
        r"\verb|<img src=x onerror=trip()>|",
        r'\hspace{1em" onclick="trip()}',
        r"\includegraphics{http://evil.example/x.png}",
        r"_<img src=x onerror=trip()>",
        r"\tag{<script>trip()</script>}",
    )
    return [
        shape.replace("{}", one)
        for shape, one in product(("${}$", "$$\n{}\n$$", "\\({}\\)", "\\[{}\\]", "$$x = {}$$"), inside)
    ]


def styles() -> list[str]:
    return [
        "<style>@import 'javascript:trip()';</style>",
        "<style>*{background:url(https://evil.example/x)}</style>",
        "<div style='background:url(javascript:trip())'>x</div>",
        "<p style='width:expression(trip())'>x</p>",
        "<link rel=stylesheet href=https://evil.example/x.css>",
        "<div style='position:fixed;inset:0'>cover</div>",
        "<p style=behavior:url(#default#time2) onbegin=trip()>",
        "<style></style><img src=x onerror=trip()>",
        "<b style=-moz-binding:url(x)>x</b>",
        "```html\n<style>*{}</style><img src=x onerror=trip()>\n```",
        "```svg\n<svg onload=trip()>\n```",
        "`<img src=x onerror=trip()>`",
        "    <img src=x onerror=trip()>",
        "~~~diff\n+<script>trip()</script>\n~~~",
        "```python\n'''</code></pre><script>trip()</script>\n```",
    ]


def all_payloads() -> list[str]:
    """All of them, each once."""
    classes = (scripts, handlers, links, tricks, foreign, formulas, styles)
    return list(dict.fromkeys(payload for made in classes for payload in made()))
