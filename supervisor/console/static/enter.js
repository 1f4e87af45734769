// Takes the token out of the address, which it leaves, and gives it to the page's form.
"use strict";
const token = location.hash.slice(1);
if (/^[A-Za-z0-9_-]{20,100}$/.test(token)) {
  history.replaceState(null, "", "/enter");
  document.getElementById("token").value = token;
  document.getElementById("enter").submit();
}
