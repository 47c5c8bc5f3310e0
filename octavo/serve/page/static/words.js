/** The page's words in English, Chinese and Japanese. `{x}` is filled in. */

import { setting, setSetting } from "./store.js";

export const LANGUAGES = /** @type {const} */ ({ en: "English", zh: "中文", ja: "日本語" });
const ORDER = Object.keys(LANGUAGES);

/** @type {Record<string, [string, string, string]>} */
const WORDS = {
  skip: ["Skip to the message box", "跳到输入框", "入力欄へ移動"],
  conversations: ["Conversations", "对话", "会話"],
  newTalk: ["New conversation", "新对话", "新しい会話"],
  noTalks: ["What you say stays in this browser.", "对话只保存在此浏览器中。", "会話はこのブラウザーにのみ保存されます。"],
  remove: ["Delete conversation", "删除对话", "会話を削除"],
  removeSure: ["Delete “{title}”? It cannot be brought back.", "删除“{title}”？此操作无法撤销。", "「{title}」を削除しますか？元に戻せません。"],
  importFile: ["Import", "导入", "読み込み"],
  exportOne: ["Export this one", "导出当前", "この会話を書き出す"],
  exportAll: ["Export all", "全部导出", "すべて書き出す"],
  imported: ["Imported: {count}", "已导入：{count}", "読み込みました：{count}"],
  importFailed: ["This file holds no conversations of Octavo (at: {field}).", "此文件不是 Octavo 的对话（位置：{field}）。", "Octavo の会話ファイルではありません（{field}）。"],
  language: ["Language", "语言", "言語"],
  theme: ["Appearance", "外观", "外観"],
  themeAuto: ["System", "跟随系统", "システム"],
  themeLight: ["Light", "浅色", "ライト"],
  themeDark: ["Dark", "深色", "ダーク"],
  menu: ["Show conversations", "显示对话", "会話一覧を表示"],
  model: ["Model", "模型", "モデル"],
  noModels: ["no models", "没有模型", "モデルなし"],
  settings: ["Instructions and sampling", "指令与采样", "指示とサンプリング"],
  compare: ["Compare two models", "比较两个模型", "2つのモデルを比較"],
  talkOn: ["Back to the conversation", "返回对话", "会話に戻る"],
  context: ["Context used", "已用上下文", "使用中のコンテキスト"],
  contextOf: ["{used} of {all} tokens", "{used} / {all} 词元", "{used} / {all} トークン"],
  welcome: ["What shall we talk about?", "想聊些什么？", "何を話しましょうか？"],
  messages: ["Messages", "消息", "メッセージ"],
  you: ["You", "你", "あなた"],
  say: ["Message", "消息", "メッセージ"],
  sayHere: ["Write a message", "输入消息", "メッセージを入力"],
  send: ["Send", "发送", "送信"],
  stop: ["Stop", "停止", "停止"],
  thinking: ["Thinking", "思考", "思考"],
  auto: ["Auto", "自动", "自動"],
  on: ["On", "开", "オン"],
  off: ["Off", "关", "オフ"],
  budget: ["Thinking budget in tokens", "思考预算（词元）", "思考の上限（トークン）"],
  noLimit: ["no limit", "不限", "上限なし"],
  finish: ["Finish thinking now", "立即结束思考", "思考を終える"],
  thinkingNow: ["Thinking… {s} s", "思考中… {s} 秒", "思考中… {s} 秒"],
  thoughtFor: ["Thought for {s} s", "思考了 {s} 秒", "{s} 秒間思考"],
  copyThought: ["Copy the thinking", "复制思考过程", "思考をコピー"],
  waiting: ["Waiting for the first token", "等待首个词元", "最初のトークンを待っています"],
  answered: ["The answer is complete.", "回答完毕。", "回答が完了しました。"],
  stopped: ["Stopped.", "已停止。", "停止しました。"],
  cut: ["Cut off at the limit of tokens.", "已达词元上限而中断。", "トークン上限で打ち切られました。"],
  lost: ["Interrupted.", "已中断。", "中断されました。"],
  notKept: ["This conversation could not be kept in this browser: {why}", "无法在此浏览器中保存对话：{why}", "この会話をブラウザーに保存できませんでした：{why}"],
  failed: ["This did not work: {why}", "出错了：{why}", "エラー：{why}"],
  copy: ["Copy", "复制", "コピー"],
  edit: ["Edit", "编辑", "編集"],
  again: ["Regenerate", "重新生成", "再生成"],
  fork: ["Fork from here", "从这里分叉", "ここから分岐"],
  before: ["Previous version", "上一个版本", "前の版"],
  after: ["Next version", "下一个版本", "次の版"],
  version: ["Version {at} of {all}", "第 {at} 个版本，共 {all} 个", "{all} 版中 {at} 番目"],
  save: ["Save", "保存", "保存"],
  saveSend: ["Save and send", "保存并发送", "保存して送信"],
  cancel: ["Cancel", "取消", "キャンセル"],
  close: ["Close", "关闭", "閉じる"],
  toEnd: ["To the end", "到底部", "最後へ"],
  perSecond: ["{n} tokens/s", "{n} 词元/秒", "{n} トークン/秒"],
  first: ["first after {s} s", "首词元 {s} 秒", "最初まで {s} 秒"],
  tokens: ["{n} tokens", "{n} 词元", "{n} トークン"],
  thoughtTokens: ["{n} of them thinking", "其中思考 {n}", "うち思考 {n}"],
  system: ["Instructions (system prompt)", "指令（系统提示）", "指示（システムプロンプト）"],
  preset: ["Preset", "预设", "プリセット"],
  presetOwn: ["The model’s own", "模型默认", "モデルの既定"],
  presetExact: ["Exact", "精确", "正確"],
  presetBalanced: ["Balanced", "均衡", "バランス"],
  presetFree: ["Free", "自由", "自由"],
  presetName: ["Name of a preset", "预设名称", "プリセット名"],
  presetRemove: ["Delete preset", "删除预设", "プリセットを削除"],
  presetSave: ["Save as preset", "存为预设", "プリセットとして保存"],
  temperature: ["Temperature", "温度", "温度"],
  top_p: ["Top p", "Top p", "Top p"],
  top_k: ["Top k", "Top k", "Top k"],
  max_tokens: ["Tokens at most", "最多词元", "最大トークン"],
  seed: ["Seed", "随机种子", "シード"],
  unset: ["model’s own", "默认", "既定"],
  keys: ["Keyboard", "键盘", "キーボード"],
  keyEnter: ["Send", "发送", "送信"],
  keyShift: ["New line", "换行", "改行"],
  keyEsc: ["Stop the answer", "停止回答", "回答を停止"],
  keySlash: ["To the message box", "到输入框", "入力欄へ"],
  keyNew: ["New conversation", "新对话", "新しい会話"],
  keyThink: ["Thinking: auto, on, off", "思考：自动、开、关", "思考：自動・オン・オフ"],
  keyHelp: ["This list", "此列表", "この一覧"],
  logIn: ["Log in", "登录", "ログイン"],
  logOut: ["Log out", "退出登录", "ログアウト"],
  logInWhy: ["This server asks for an API key. It is exchanged for a cookie and not kept.", "此服务器需要 API 密钥。密钥仅用于换取 Cookie，不会保存。", "このサーバーには API キーが必要です。キーは Cookie と交換され、保存されません。"],
  key: ["API key", "API 密钥", "API キー"],
  side: ["Side {name}", "{name} 方", "{name} 側"],
  one: ["First model", "第一个模型", "1つ目のモデル"],
  two: ["Second model", "第二个模型", "2つ目のモデル"],
  compareWhy: ["Both answer the same prompt. Which side is which is shown after your vote.", "两个模型回答同一问题。投票后才显示各是谁。", "同じ質問に両方が答えます。投票後にどちらか分かります。"],
  ask: ["Ask both", "询问双方", "両方に聞く"],
  voteA: ["A is better", "A 更好", "A が良い"],
  voteB: ["B is better", "B 更好", "B が良い"],
  tie: ["As good", "不相上下", "同程度"],
  vote: ["Your vote", "投票", "投票"],
  tally: ["Votes so far", "迄今投票", "これまでの投票"],
  wins: ["Won", "胜", "勝ち"],
  losses: ["Lost", "负", "負け"],
  ties: ["As good", "平", "引き分け"],
  reset: ["Forget votes", "清除投票", "投票を消す"],
  revealed: ["Side A: {a}. Side B: {b}.", "A 方：{a}。B 方：{b}。", "A 側：{a}。B 側：{b}。"],
};

/** The language that is shown: the one chosen here, else the browser's. @returns {string} */
export function language() {
  const wanted = [setting("language", ""), ...navigator.languages].map((name) => name.slice(0, 2));
  return wanted.find((name) => ORDER.includes(name)) ?? "en";
}

/** @param {string} key @param {Record<string, string | number>} filling */
export function words(key, filling = {}) {
  const text = WORDS[key][ORDER.indexOf(language())];
  return text.replace(/\{(\w+)\}/g, (_, name) => String(filling[name]));
}

/** A number as this language writes it. @param {number} value @param {number} digits */
export function figure(value, digits = 0) {
  return value.toLocaleString(language(), { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

/**
 * Put words where `data-t` (text), `data-t-label` (name) and `data-t-placeholder` ask for them.
 * @param {Element} root
 */
export function translate(root) {
  for (const element of [root, ...root.querySelectorAll("[data-t], [data-t-label], [data-t-placeholder]")]) {
    const { t, tLabel, tPlaceholder } = /** @type {HTMLElement} */ (element).dataset;
    if (t) element.textContent = words(t);
    if (tPlaceholder) element.setAttribute("placeholder", words(tPlaceholder));
    if (!tLabel) continue;
    element.setAttribute("aria-label", words(tLabel));
    if (element.matches("button")) element.setAttribute("title", words(tLabel));
  }
}

/** @param {string} name */
export function choose(name) {
  setSetting("language", name);
  show();
}

/** Translate the page into the language that is chosen. */
export function show() {
  document.documentElement.lang = language();
  translate(document.documentElement);
}
