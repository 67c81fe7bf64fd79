// The widgets' manager asks for formulas in the words of MathJax 2; the pages have MathJax 3. Translate.
if (window.MathJax && !window.MathJax.Hub) {
  window.MathJax.Hub = {
    Queue: (...calls) =>
      window.MathJax.startup.promise.then(() => window.MathJax.typesetPromise(calls.map((call) => call[2]))),
  };
}
