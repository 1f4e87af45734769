// Keeps the table of live calls as it is. Values come as text, and are put in as text.
"use strict";
const ID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;
const CLASSES = ["id", "time", "name", "name", "name", "state", "number", "text"];
const body = document.querySelector("#live tbody");
const state = document.getElementById("status");

function row(values) {
  const made = document.createElement("tr");
  values.forEach((value, place) => {
    const cell = made.insertCell();
    cell.className = CLASSES[place];
    if (place === 6 && value !== "0") cell.classList.add("denied");
    if (place === 0 && ID.test(value)) {
      const link = document.createElement("a");
      link.href = "/calls/" + value;
      link.textContent = value;
      cell.append(link);
    } else {
      cell.textContent = value;
    }
  });
  return made;
}

function show(told) {
  const focused = document.activeElement && document.activeElement.textContent;
  body.replaceChildren(...told.rows.map(row));
  for (const link of body.querySelectorAll("a")) {
    if (link.textContent === focused) link.focus();
  }
  document.getElementById("count").textContent = told.rows.length + (told.more ? "+" : "");
  document.getElementById("none").hidden = told.rows.length > 0;
}

const source = new EventSource("/live");
source.onopen = () => { state.textContent = ""; };
source.onmessage = (event) => show(JSON.parse(event.data));
source.onerror = () => { state.textContent = "The daemon is away; this page tries again."; };
source.addEventListener("over", () => {
  source.close();
  location.reload();
});
