"""A full-screen program: colours, the other screen, the cursor all over, and another size."""

import curses


def draw(screen: "curses.window", step: int) -> None:
    rows, columns = screen.getmaxyx()
    screen.erase()
    screen.border()
    for color in range(1, 7):
        screen.addstr(color + 1, 3 * color, f"colour {color}", curses.color_pair(color))
    screen.addstr(0, 4, f" step {step}: {columns}x{rows} ", curses.A_REVERSE | curses.A_BOLD)
    screen.addstr(rows // 2, columns - 12, "é ünï → ok")
    screen.addstr(rows - 2, 2, "last row", curses.A_UNDERLINE)
    screen.move(rows // 3, step % columns)
    screen.refresh()


def main(screen: "curses.window") -> None:
    curses.use_default_colors()
    for color in range(1, 7):
        curses.init_pair(color, color, -1)
    step = 0
    while True:
        draw(screen, step)
        key = screen.getch()
        if key == ord("q"):
            return
        if key == curses.KEY_RESIZE:
            curses.update_lines_cols()
        step += 1


curses.wrapper(main)
