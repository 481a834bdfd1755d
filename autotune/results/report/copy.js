(() => {
  const button = document.getElementById("copy");
  const command = document.getElementById("command");
  const said = document.getElementById("copied");
  if (!button) return;
  const select = () => {
    const range = document.createRange();
    range.selectNodeContents(command);
    getSelection().removeAllRanges();
    getSelection().addRange(range);
  };
  button.hidden = false;
  button.addEventListener("click", async () => {
    said.textContent = "";
    let done = true;
    try {
      await navigator.clipboard.writeText(command.textContent);
    } catch {
      select();
      done = document.execCommand("copy");
    }
    said.textContent = done ? "copied" : "selected: copy it with the keyboard";
  });
})();
