// A stack of layers with one read out: our sign in the sidebar, on the cell, in the palette.

import { LabIcon } from '@jupyterlab/ui-components';

export const icon = new LabIcon({
  name: 'nnsight-lab:layers',
  svgstr: `<svg xmlns="http://www.w3.org/2000/svg" width="16" viewBox="0 0 16 16">
<g class="jp-icon3" fill="#616161"><rect x="1" y="2" width="9" height="2.4" rx="1"/>
<rect x="1" y="11.6" width="9" height="2.4" rx="1"/><rect x="1" y="6.8" width="9" height="2.4" rx="1"/>
<path d="M11 5l4 3-4 3z"/></g></svg>`
});
