"""A bar chart as PNG, drawn with matplotlib."""

from pathlib import Path

from core.evaluation.plotting import INK, drawing_style, write_figure

COLORS = ("#969696", "#78A0B4", "#D2AA6E", "#288246")
WIDTH, BAR, GROUP = 10.0, 0.34, 0.6  # inches: of the page, height of a bar and of a group's title


def draw_bars(path: Path, title: str, groups: dict[str, dict[str, float]]) -> None:
    """Draws horizontal bars in groups, each with its value.

    Args:
        path: PNG to write.
        title: line above the bars.
        groups: values by the name of their bar, by the title of their group.

    Raises:
        UserError: matplotlib is not installed.
    """
    with drawing_style():
        from matplotlib.figure import Figure

        bars = list(map(len, groups.values()))
        height = BAR * sum(bars) + GROUP * (len(groups) + 1)
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        figure.get_layout_engine().set(h_pad=0.1)
        figure.suptitle(title, x=0.01, horizontalalignment="left", fontsize=13)
        every = figure.subplots(
            len(groups), squeeze=False, sharex=True, gridspec_kw={"height_ratios": bars}
        )
        for axes, (name, values) in zip(every[:, 0], groups.items(), strict=True):
            colors = [COLORS[number % len(COLORS)] for number in range(len(values))]
            drawn = axes.barh(list(values), list(values.values()), color=colors)
            axes.bar_label(drawn, fmt="%.2f", padding=6)
            axes.set_title(name)
            axes.invert_yaxis()  # the first bar on top
            axes.margins(x=0.08)
            axes.xaxis.set_visible(False)
            axes.tick_params(axis="y", length=0, labelcolor=INK)
            axes.spines[:].set_visible(False)
            axes.grid(False)
        write_figure(figure, path)
