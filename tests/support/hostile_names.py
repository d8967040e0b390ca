"""Names that a stranger or an unlucky user may choose. What others read or run is tested with all of them."""

NAMES = (
    "it's",
    'a "tiny" model',
    "$(touch pwned)",
    "`touch pwned`",
    "; touch pwned & touch pwned | touch pwned",
    "two\nlines\r\tand a tab",
    "```\nimport os\n```",
    "---\nlicense: mit\n---",
    "# heading *bold* _it_ [link](javascript:alert(1)) | cell | ![x](y)",
    "<img src=x onerror=alert(1)>",
    "<script>alert('x')</script> & <b>",
    '"><svg onload=alert(1)>',
    'x"); __import__("os").system("touch pwned") #',
    "]]><![CDATA[",
    "&amp; &#x41;",
    "{{ 7*7 }} {% raw %}",
    "${x} $HOME",
    "%s %d %n %",
    '\\ \\u0041 \\" \\',
    "-n",
    "--force",
    "* ~ ? [a-z] ! #",
    "@string/x",
    "?attr",
    " spaces  around ",
    "\u202egpj.exe",
    "مرحبا שלום",
    "é 😀 👩\u200d🚀 \u2028\xa0",
    "../../etc/passwd",
)

NAME = 'it\'s a "tiny" $(touch pwned); `touch pwned` & touch pwned\n* | <b> \\ é {{ 7*7 }} ${x} %s "); __import__("x")'
"""Most of them in one name, which a directory may have."""
