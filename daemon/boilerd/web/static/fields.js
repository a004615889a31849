// Which fields of a page somebody has changed, and has neither sent nor set back.

function isTicked(field) {
  return field.type === "checkbox" || field.type === "radio";
}

/** Whether a select has another choice than the one that it came with; without any, that is the first. */
function isChosen(field) {
  const all = [...field.options], hasDefault = field.multiple || all.some((each) => each.defaultSelected);
  return all.some((each, index) => each.selected !== (hasDefault ? each.defaultSelected : index === 0));
}

function isChanged(field) {
  if (field.options) return isChosen(field);
  return isTicked(field) ? field.checked !== field.defaultChecked : field.value !== field.defaultValue;
}

/** What a field is for. */
function purpose(field) {
  return [field.closest("form")?.getAttribute("action"), field.name, isTicked(field) ? field.value : ""].join(" ");
}

/** Whether an element is a field that somebody has changed; not where the server has one for something else in its place. */
export function holdsInput(element, fresh) {
  return element.matches?.("input, select, textarea") && isChanged(element) && purpose(element) === purpose(fresh);
}
