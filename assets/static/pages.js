// What every page needs beside the theme. No library, no request.

// Code that is unfolded may be wider than the screen: the theme makes such a box reachable by the keyboard, but looks
// for one only when the window changes.
document.addEventListener("toggle", () => window.dispatchEvent(new Event("resize")), true);

// From a folder, without a server, a browser refuses the search the pages from which it would cut its summaries.
if (location.protocol === "file:" && typeof DOCUMENTATION_OPTIONS !== "undefined") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;

// The numbers of a live figure as it stands, one click away: a column for each array that it computed; of the network
// that trains on the front page, what it drew so far.
function spikenbNumbers(live) {
  const controls = Object.fromEntries([...live.querySelectorAll("input")].map(input => [input.name, +input.value]));
  const columns = Object.entries(live.run ? spikenbHistoryOf(live.run()) : live.compute(controls))
    .filter(([, values]) => values?.length && typeof values !== "string");
  const longest = Math.max(...columns.map(([, values]) => values.length));
  const cell = value => Number.isFinite(value) ? String(+value.toPrecision(6)) : "";
  const rows = [columns.map(([name]) => name)];
  for (let i = 0; i < longest; i++) rows.push(columns.map(([, values]) => i < values.length ? cell(values[i]) : ""));
  return rows.map(row => row.join(",") + "\n").join("");
}
function spikenbHistoryOf({history: {each, columns}}) {
  const kept = columns.map((column, k) => ({epoch: k * each, ...column}));
  const names = {epoch: "epoch", low: "lowest loss", high: "highest loss", lam: "sharpness", edge: "2/eta"};
  return Object.fromEntries(Object.entries(names).map(([key, name]) => [name, kept.map(column => column[key])]));
}

addEventListener("DOMContentLoaded", () => {
  for (const live of document.querySelectorAll(".spike-live, .spike-front")) {
    if (!live.compute && !live.run) continue;
    const button = document.createElement("button"), textContent = `The numbers ${live.run ? "so far" : "of this setting"} (CSV)`;
    Object.assign(button, {type: "button", className: "spike-numbers", textContent});
    button.addEventListener("click", () => {
      const url = URL.createObjectURL(new Blob([spikenbNumbers(live)], {type: "text/csv"}));
      Object.assign(document.createElement("a"), {href: url, download: live.id + ".csv"}).click();
      setTimeout(() => URL.revokeObjectURL(url), 10000);
    });
    live.append(button);
  }
});
