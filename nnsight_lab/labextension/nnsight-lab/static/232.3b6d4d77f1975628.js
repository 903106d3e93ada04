"use strict";(self.rspackChunknnsight_lab=self.rspackChunknnsight_lab||[]).push([[232],{593(n,r,o){var e=o(971),t=o.n(e),a=o(412),l=(o.n(a))()(t());l.push([n.id,`/* Colours and sizes of JupyterLab's theme only, so that light and dark both hold. */

.nnl-Sidebar {
  background: var(--jp-layout-color1);
  color: var(--jp-ui-font-color1);
  font-size: var(--jp-ui-font-size1);
  min-width: 260px !important;
  overflow-y: auto;
}

.nnl-Sidebar p {
  margin: 0;
}

.nnl-note,
.nnl-none {
  color: var(--jp-ui-font-color2);
  padding: 4px 0;
}

.nnl-note {
  padding: 12px;
}

.nnl-section {
  border-bottom: 1px solid var(--jp-border-color2);
  padding: 0 12px 10px;
}

.nnl-heading {
  cursor: pointer;
  font-size: var(--jp-ui-font-size0);
  font-weight: 600;
  letter-spacing: 0.06em;
  padding: 10px 0 6px;
  text-transform: uppercase;
}

.nnl-group {
  color: var(--jp-ui-font-color2);
  font-size: var(--jp-ui-font-size0);
  padding: 8px 0 2px;
}

/* Server */

.nnl-top {
  align-items: center;
  display: flex;
  gap: 6px;
}

.nnl-dot {
  background: var(--jp-ui-font-color3);
  border-radius: 50%;
  flex: none;
  height: 8px;
  width: 8px;
}

.nnl-Server[data-state='open'] .nnl-dot {
  background: var(--jp-success-color1);
}

.nnl-Server[data-state='lost'] .nnl-dot {
  background: var(--jp-error-color1);
}

.nnl-about,
.nnl-where {
  color: var(--jp-ui-font-color2);
  font-size: var(--jp-ui-font-size0);
  overflow-wrap: anywhere;
}

.nnl-Server .nnl-act {
  margin-left: auto;
}

.nnl-queue {
  list-style: none;
  margin: 4px 0 0;
  max-height: 20vh;
  overflow-y: auto;
  padding: 0;
}

.nnl-queue .nnl-name {
  overflow: hidden;
  text-overflow: ellipsis;
  white-space: nowrap;
}

.nnl-traffic {
  color: var(--jp-ui-font-color2);
  font-variant-numeric: tabular-nums;
  margin-left: auto;
  white-space: nowrap;
}

/* Runs */

.nnl-Runs {
  max-height: 42vh;
  overflow-y: auto;
}

.nnl-Run {
  border-left: 3px solid var(--jp-border-color2);
  margin: 6px 0;
  padding: 2px 0 2px 8px;
}

.nnl-Run[data-state='done'] {
  border-color: var(--jp-success-color1);
}

.nnl-Run[data-state='failed'] {
  border-color: var(--jp-error-color1);
}

.nnl-Run[data-state='running'],
.nnl-Run[data-state='sending'] {
  border-color: var(--jp-brand-color1);
}

.nnl-state {
  font-weight: 600;
  font-variant-numeric: tabular-nums;
}

.nnl-cost {
  color: var(--jp-ui-font-color2);
  font-variant-numeric: tabular-nums;
  margin-left: auto;
  white-space: nowrap;
}

.nnl-prompt {
  color: var(--jp-ui-font-color2);
  overflow: hidden;
  text-overflow: ellipsis;
  white-space: nowrap;
}

.nnl-bar {
  accent-color: var(--jp-brand-color1);
  height: 6px;
  width: 100%;
}

.nnl-error {
  color: var(--jp-error-color0, var(--jp-error-color1));
  overflow-wrap: anywhere;
}

[data-jp-theme-light='false'] .nnl-error {
  color: var(--jp-error-color3, var(--jp-error-color1));
}

.nnl-acts {
  display: flex;
  flex-wrap: wrap;
  gap: 4px;
  padding-top: 3px;
}

.nnl-act {
  background: var(--jp-layout-color2);
  border: 1px solid var(--jp-border-color2);
  border-radius: 3px;
  color: var(--jp-ui-font-color1);
  cursor: pointer;
  font-size: var(--jp-ui-font-size0);
  padding: 2px 7px;
}

.nnl-act:hover,
.nnl-code:hover,
.nnl-port:hover {
  background: var(--jp-layout-color3);
}

.nnl-act:disabled {
  cursor: default;
  opacity: 0.6;
}

.nnl-Sidebar [hidden] {
  display: none;
}

/* Models */

.nnl-line {
  align-items: baseline;
  display: flex;
  gap: 6px;
  padding: 1px 0;
}

summary.nnl-line {
  cursor: pointer;
  list-style: none;
}

summary.nnl-line::before {
  color: var(--jp-ui-font-color2);
  content: '▸';
  flex: none;
  width: 10px;
}

details[open] > summary.nnl-line::before {
  content: '▾';
}

.nnl-leaf {
  flex-wrap: wrap;
  padding-left: 16px;
}

.nnl-below {
  border-left: 1px solid var(--jp-border-color2);
  margin-left: 4px;
  padding-left: 8px;
}

.nnl-name {
  font-family: var(--jp-code-font-family);
  font-weight: 600;
}

.nnl-kind {
  color: var(--jp-ui-font-color2);
  font-size: var(--jp-ui-font-size0);
}

.nnl-where {
  padding-left: 16px;
}

.nnl-search {
  background: var(--jp-input-background);
  border: 1px solid var(--jp-border-color1);
  border-radius: 3px;
  box-sizing: border-box;
  color: var(--jp-ui-font-color1);
  margin: 6px 0 2px;
  padding: 4px 6px;
  width: 100%;
}

.nnl-path,
.nnl-port,
.nnl-code {
  background: none;
  border: 0;
  border-radius: 3px;
  color: var(--jp-content-link-color);
  cursor: pointer;
  font-family: var(--jp-code-font-family);
  font-size: var(--jp-code-font-size);
  padding: 0 2px;
  text-align: left;
}

.nnl-path {
  overflow-wrap: anywhere;
}

.nnl-path:hover {
  text-decoration: underline;
}

.nnl-ports {
  display: inline-flex;
  flex-wrap: wrap;
  gap: 3px;
}

.nnl-below > .nnl-ports {
  padding: 1px 0 3px 14px;
}

.nnl-port {
  background: var(--jp-layout-color2);
  color: var(--jp-ui-font-color1);
  font-size: var(--jp-ui-font-size0);
  padding: 1px 5px;
}

.nnl-code {
  border: 1px solid var(--jp-border-color2);
  display: block;
  margin: 4px 0;
  padding: 3px 6px;
}

.nnl-Sidebar :focus-visible {
  outline: 2px solid var(--jp-brand-color1);
  outline-offset: 1px;
}

/* Elsewhere */

.nnl-Status {
  align-items: center;
  background: none;
  border: none;
  color: inherit;
  cursor: pointer;
  display: flex;
  font: inherit;
  font-variant-numeric: tabular-nums;
  padding: 0 6px;
}

.nnl-Status:focus-visible {
  outline: 2px solid currentcolor;
  outline-offset: -2px;
}

/* Figures. No grey can be read well on white and on black: where this sheet is, their words take the
   theme's colour. The grey they have elsewhere is nobody else's (jupyter/figures_theme.py). */

.js-plotly-plot text[style*='fill: rgb(121, 121, 122)'] {
  fill: var(--jp-content-font-color1) !important;
}

[data-jp-theme-light='true'] .jp-RenderedSVG img {
  color-scheme: light;
}

[data-jp-theme-light='false'] .jp-RenderedSVG img {
  color-scheme: dark;
}

.nnl-Badge {
  color: var(--jp-ui-font-color2);
  font-size: var(--jp-ui-font-size0);
  font-variant-numeric: tabular-nums;
  overflow: hidden;
  padding: 1px 8px 1px calc(var(--jp-cell-prompt-width) + var(--jp-cell-collapser-width) + 8px);
  text-overflow: ellipsis;
  white-space: nowrap;
}

.nnl-mod-noBadges .nnl-Badge {
  display: none;
}

.nnl-revealed {
  outline: 2px solid var(--jp-brand-color1);
}

.nnl-Explorer {
  background: var(--jp-layout-color0);
  overflow: auto;
  padding: 8px;
}
`,""]),o.d(r,{},{A:l})},412(n){n.exports=function(n){var r=[];return r.toString=function(){return this.map(function(r){var o="",e=void 0!==r[5];return r[4]&&(o+="@supports (".concat(r[4],") {")),r[2]&&(o+="@media ".concat(r[2]," {")),e&&(o+="@layer".concat(r[5].length>0?" ".concat(r[5]):""," {")),o+=n(r),e&&(o+="}"),r[2]&&(o+="}"),r[4]&&(o+="}"),o}).join("")},r.i=function(n,o,e,t,a){"string"==typeof n&&(n=[[null,n,void 0]]);var l={};if(e)for(var i=0;i<this.length;i++){var p=this[i][0];null!=p&&(l[p]=!0)}for(var c=0;c<n.length;c++){var s=[].concat(n[c]);e&&l[s[0]]||(void 0!==a&&(void 0===s[5]||(s[1]="@layer".concat(s[5].length>0?" ".concat(s[5]):""," {").concat(s[1],"}")),s[5]=a),o&&(s[2]&&(s[1]="@media ".concat(s[2]," {").concat(s[1],"}")),s[2]=o),t&&(s[4]?(s[1]="@supports (".concat(s[4],") {").concat(s[1],"}"),s[4]=t):s[4]="".concat(t)),r.push(s))}},r}},971(n){n.exports=function(n){return n[1]}},498(n){var r=[];function o(n){for(var o=-1,e=0;e<r.length;e++)if(r[e].identifier===n){o=e;break}return o}function e(n,e){for(var t={},a=[],l=0;l<n.length;l++){var i=n[l],p=e.base?i[0]+e.base:i[0],c=t[p]||0,s="".concat(p," ").concat(c);t[p]=c+1;var d=o(s),u={css:i[1],media:i[2],sourceMap:i[3],supports:i[4],layer:i[5]};if(-1!==d)r[d].references++,r[d].updater(u);else{var f=function(n,r){var o=r.domAPI(r);return o.update(n),function(r){r?(r.css!==n.css||r.media!==n.media||r.sourceMap!==n.sourceMap||r.supports!==n.supports||r.layer!==n.layer)&&o.update(n=r):o.remove()}}(u,e);e.byIndex=l,r.splice(l,0,{identifier:s,updater:f,references:1})}a.push(s)}return a}n.exports=function(n,t){var a=e(n=n||[],t=t||{});return function(n){n=n||[];for(var l=0;l<a.length;l++){var i=o(a[l]);r[i].references--}for(var p=e(n,t),c=0;c<a.length;c++){var s=o(a[c]);0===r[s].references&&(r[s].updater(),r.splice(s,1))}a=p}}},769(n){var r={};n.exports=function(n,o){var e=function(n){if(void 0===r[n]){var o=document.querySelector(n);if(window.HTMLIFrameElement&&o instanceof window.HTMLIFrameElement)try{o=o.contentDocument.head}catch(n){o=null}r[n]=o}return r[n]}(n);if(!e)throw Error("Couldn't find a style target. This probably means that the value for the 'insert' parameter is invalid.");e.appendChild(o)}},574(n){n.exports=function(n){var r=document.createElement("style");return n.setAttributes(r,n.attributes),n.insert(r,n.options),r}},530(n,r,o){n.exports=function(n){var r=o.nc;r&&n.setAttribute("nonce",r)}},187(n){n.exports=function(n){if("u"<typeof document)return{update:function(){},remove:function(){}};var r=n.insertStyleElement(n);return{update:function(o){var e,t,a;e="",o.supports&&(e+="@supports (".concat(o.supports,") {")),o.media&&(e+="@media ".concat(o.media," {")),(t=void 0!==o.layer)&&(e+="@layer".concat(o.layer.length>0?" ".concat(o.layer):""," {")),e+=o.css,t&&(e+="}"),o.media&&(e+="}"),o.supports&&(e+="}"),(a=o.sourceMap)&&"u">typeof btoa&&(e+="\n/*# sourceMappingURL=data:application/json;base64,".concat(btoa(unescape(encodeURIComponent(JSON.stringify(a))))," */")),n.styleTagTransform(e,r,n.options)},remove:function(){var n;null===(n=r).parentNode||n.parentNode.removeChild(n)}}}},83(n){n.exports=function(n,r){if(r.styleSheet)r.styleSheet.cssText=n;else{for(;r.firstChild;)r.removeChild(r.firstChild);r.appendChild(document.createTextNode(n))}}},579(n,r,o){var e=o(498),t=o.n(e),a=o(187),l=o.n(a),i=o(769),p=o.n(i),c=o(530),s=o.n(c),d=o(574),u=o.n(d),f=o(83),v=o.n(f),h=o(593),g={};g.styleTagTransform=v(),g.setAttributes=s(),g.insert=p().bind(null,"head"),g.domAPI=l(),g.insertStyleElement=u(),t()(h.A,g),h.A&&h.A.locals&&h.A.locals}}]);