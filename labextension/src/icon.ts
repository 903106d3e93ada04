// A stack of layers with one read out: our sign in the sidebar, on the cell, in the palette.

import { LabIcon } from '@jupyterlab/ui-components';

export const icon = new LabIcon({
  name: 'nnsight-lab:layers',
  svgstr: `<svg xmlns="http://www.w3.org/2000/svg" width="16" viewBox="0 0 16 16">
<g class="jp-icon3" fill="#616161"><rect x="1" y="2" width="9" height="2.4" rx="1"/>
<rect x="1" y="11.6" width="9" height="2.4" rx="1"/></g>
<g class="jp-icon-accent0" fill="#1976d2"><rect x="1" y="6.8" width="9" height="2.4" rx="1"/>
<path d="M10 7.5h2.2V5.6L15.4 8l-3.2 2.4V8.5H10z"/></g></svg>`
});
