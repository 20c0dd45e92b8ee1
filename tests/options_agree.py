#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What the program takes, the manual pages, the completion and the guides know as well: options of `vireo run`, its help's topics,
commands of `vireo ctl` and `vireo img`, words of --disk, the command line of `vireo stat`. Prints what is missing where; exit status 1 if anything is.
"""
import pathlib
import re
import sys

TOP = pathlib.Path(__file__).resolve().parent.parent


def text(name):
    return (TOP / name).read_text()


def page(name):
    """A manual page's text, without the formatter's words."""
    plain = re.sub(r"\\f[A-Z]", "", text(name)).replace("\\-", "-").replace('"', "")
    return re.sub(r"(?m)^\.[A-Z]+ ", "", plain)


def main():
    options = re.findall(r'add_(?:option|flag)\("([^"]+)"', text("src/cli/run_options.cpp"))
    options = [one for names in options for one in names.split(",")]
    topics = re.findall(r'^    \{"([a-z-]+)", R"\(', text("src/cli/help.cpp"), re.M)
    commands = re.findall(r'^      \{"([a-z ]+)", "', text("src/cli/ctl/words.cpp"), re.M)
    images = re.findall(r'^    \{"([a-z]+)", [a-z]+, "', text("src/cli/img/img.cpp"), re.M)
    disk = re.findall(r'key == "([a-z-]+)"', text("src/cli/values.cpp").split("parse_disk(")[1].split("\n}\n")[0])
    stat_source = text("src/cli/stat/stat.cpp")
    stat = re.findall(r'add_(?:option|flag)\("(--[a-z-]+)', stat_source)
    stat_help = stat_source.split('R"(')[1].split(')"')[0]
    stat_words = re.findall(r"\[([A-Z]+)\]", stat_help.splitlines()[1])
    assert len(stat) > 6 and len(stat_words) > 1
    assert len(options) > 20 and len(topics) > 10 and len(commands) > 20 and len(images) > 10 and len(disk) > 4

    man, ctl_man, completion = page("docs/man/vireo.1"), page("docs/man/vireo-ctl.1"), text("docs/completion/vireo.bash")
    ctl_completion = completion.split("== ctl ]]")[1].split("return\n")[0]
    help_text, guide = text("src/cli/help.cpp"), text("docs/guide/run.md")
    missing = []

    def look(where, what, words):
        for word in words:
            if not re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", what):
                missing.append(f"{where}: {word}")

    look("vireo(1)", man, options)
    look("vireo run --help", help_text, options)
    look("completion", completion, options + images + topics)
    look("completion of vireo ctl", ctl_completion, {word for command in commands for word in command.split()})
    look("vireo-ctl(1)", ctl_man, {word for command in commands for word in command.split()})
    look("vireo(1)", man, images + disk)
    stat_man = man.split("vireo stat\nshows")[1].split("vireo img")[0]
    look("vireo stat --help", stat_help.split("\n", 2)[2] + "--help", stat + [word for word in stat_words if word != "OPTION"])
    look("vireo(1), of vireo stat", stat_man + "--help", stat + [word for word in stat_words if word != "OPTION"])
    look("completion of vireo stat", completion.split("== stat ]]")[1].split("return\n")[0], stat)
    look("vireo run --help disk", help_text, disk)
    look("docs/guide/run.md", guide, [word for word in disk if word != "power-cut-test"])
    look("docs/guide/run.md's topics", guide.split("--help TOPIC")[1].split(")")[0], topics)
    print("\n".join(missing) or "they agree")
    sys.exit(1 if missing else 0)


main()
