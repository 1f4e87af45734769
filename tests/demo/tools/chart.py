"""Turn sales.csv into chart.png, and print the revenue by region as JSON."""

import collections
import csv
import json

from PIL import Image, ImageDraw

WIDTH, HEIGHT, MARGIN = 640, 400, 40
COLOURS = ("#4878a8", "#d08040", "#609060", "#a05078")

revenue = collections.Counter()
with open("sales.csv", newline="") as file:
    for row in csv.DictReader(file):
        revenue[row["region"]] += int(row["units"]) * float(row["price"])

image = Image.new("RGB", (WIDTH, HEIGHT), "white")
draw = ImageDraw.Draw(image)
step = (WIDTH - 2 * MARGIN) // len(revenue)
for place, (region, amount) in enumerate(sorted(revenue.items())):
    left = MARGIN + place * step
    top = HEIGHT - MARGIN - int(amount / max(revenue.values()) * (HEIGHT - 3 * MARGIN))
    draw.rectangle((left + 20, top, left + step - 20, HEIGHT - MARGIN), fill=COLOURS[place % 4])
    draw.text((left + 24, top - 16), f"{amount:.2f}", fill="black")
    draw.text((left + 24, HEIGHT - MARGIN + 8), region, fill="black")
draw.text((MARGIN, 12), "Revenue by region", fill="black")
image.save("chart.png")
print(json.dumps({region: round(amount, 2) for region, amount in revenue.items()}))
