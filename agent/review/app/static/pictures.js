"use strict";

// Another configuration is shown as soon as it is chosen; small pictures are drawn with sharp pixels.
const chosen = document.getElementById("trial");
if (chosen) {
  chosen.form.querySelector('button[type="submit"]').hidden = true;
  chosen.addEventListener("change", () => chosen.form.submit());
}
