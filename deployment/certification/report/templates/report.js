"use strict";
{
  const chosen = (side) => document.querySelector(`input[name="${side}"]:checked`).value;
  const view = (frame, name) =>
    frame.querySelector(`[data-view="${name}"]`) ?? frame.querySelector('[data-view="reference"]');

  const show = (frame) => {
    const slider = frame.querySelector("input");
    const left = view(frame, chosen("left"));
    const right = view(frame, chosen("right"));
    for (const figure of frame.querySelectorAll("figure")) {
      figure.classList.toggle("left", figure === left);
      figure.classList.toggle("right", figure === right && right !== left);
    }
    frame.style.setProperty("--split", `${slider.value}%`);
    const [before, after] = [left, right].map((figure) => figure.textContent.trim());
    slider.setAttribute(
      "aria-valuetext",
      `${slider.value} % ${before}, ${100 - slider.value} % ${after}`,
    );
  };

  const frames = document.querySelectorAll(".compare");
  const showAll = () => frames.forEach(show);
  for (const frame of frames) {
    frame.querySelector("input").addEventListener("input", () => show(frame));
  }
  for (const choice of document.querySelectorAll(".choices input")) {
    choice.addEventListener("change", showAll);
  }
  addEventListener("beforeprint", () => {
    for (const details of document.querySelectorAll("details")) details.open = true;
  });
  document.documentElement.classList.add("scripted");
  showAll();
}
