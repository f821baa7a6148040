"use strict";
/* Filters of the gallery and of the list of rejected rows. Without this script everything is shown. */
(() => {
  for (const form of document.querySelectorAll("form.filter")) {
    const items = [...document.querySelectorAll(form.dataset.items)];
    const count = form.querySelector("output");
    const fields = [...form.querySelectorAll("select, input")];
    const fits = (item, field) => {
      const value = field.value.trim().toLowerCase();
      return !value || (field.type === "search"
        ? (item.dataset.search ?? item.textContent).toLowerCase().includes(value)
        : (item.dataset[field.name] ?? "").toLowerCase() === value);
    };
    const apply = () => {
      let shown = 0;
      for (const item of items) {
        item.hidden = !fields.every((field) => fits(item, field));
        shown += !item.hidden;
      }
      count.textContent = `${shown} of ${items.length} shown`;
    };
    form.hidden = false;
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("input", apply);
    apply();
  }
  /* A link to a clip that a filter hides shows it again. */
  const reveal = () => {
    const target = document.getElementById(location.hash.slice(1));
    if (target?.hidden) { target.hidden = false; target.scrollIntoView(); }
  };
  window.addEventListener("hashchange", reveal);
})();
