// What every page needs beside the theme. No library, no request.

// Code that is unfolded may be wider than the screen: the theme makes such a box reachable by the keyboard, but looks
// for one only when the window changes.
document.addEventListener("toggle", () => window.dispatchEvent(new Event("resize")), true);

// From a folder, without a server, a browser refuses the search the pages from which it would cut its summaries.
if (location.protocol === "file:" && typeof DOCUMENTATION_OPTIONS !== "undefined") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;

// The numbers of a live figure as it stands, one click away: a column for each array that it computed.
function spikenbNumbers(live) {
  const controls = Object.fromEntries([...live.querySelectorAll("input")].map(input => [input.name, +input.value]));
  const result = Object.entries(live.compute(controls)).filter(([, values]) => values?.length && typeof values !== "string");
  const longest = Math.max(...result.map(([, values]) => values.length));
  const cell = value => Number.isFinite(value) ? String(+value.toPrecision(6)) : "";
  const rows = [result.map(([name]) => name)];
  for (let i = 0; i < longest; i++) rows.push(result.map(([, values]) => i < values.length ? cell(values[i]) : ""));
  return rows.map(row => row.join(",") + "\n").join("");
}

addEventListener("DOMContentLoaded", () => {
  for (const live of document.querySelectorAll(".spike-live")) {
    if (!live.compute) continue;
    const button = document.createElement("button");
    Object.assign(button, { type: "button", className: "spike-numbers", textContent: "The numbers of this setting (CSV)" });
    button.addEventListener("click", () => {
      const url = URL.createObjectURL(new Blob([spikenbNumbers(live)], { type: "text/csv" }));
      Object.assign(document.createElement("a"), { href: url, download: live.id + ".csv" }).click();
      setTimeout(() => URL.revokeObjectURL(url), 10000);
    });
    live.append(button);
  }
});
