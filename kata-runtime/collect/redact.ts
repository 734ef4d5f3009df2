/** Takes out of text what must not be in a bug report. */

const MARK = '<redacted>';
const SECRET_NAME = '[A-Za-z0-9_.-]*(?:password|passwd|secret|token|api[_-]?key|credential|private[_-]?key|authorization|jaeger_user|encryptionkey)[A-Za-z0-9_.-]*';

const RULES: readonly (readonly [RegExp, string])[] = [
  [/-----BEGIN [A-Z0-9 ]+-----[\s\S]*?(?:-----END [A-Z0-9 ]+-----|$)/g, MARK],
  // https://user:password@host
  [/([a-z][a-z0-9+.-]*:\/\/)[^\s/@:"']+:[^\s/@"']+@/gi, `$1${MARK}@`],
  [/\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}/gi, `$1 ${MARK}`],
  // "password": "x", password = "x", PASSWORD=x; quotes of a log line may be escaped.
  [new RegExp(`("?${SECRET_NAME}\\\\?"?\\s*[:=]\\s*)(\\\\?"(?:[^"\\\\\\n]|\\\\[^"\\n])*\\\\?"|'[^'\\n]*'|[^\\s,;}"']+)`, 'gi'), `$1"${MARK}"`],
  // Policies and cc_init_data of pods are base64 of files of the user's.
  [/(io\.katacontainers\.config\.(?:agent\.policy|hypervisor\.cc_init_data)"?\s*[:=]\s*)"?[A-Za-z0-9+/=_-]{16,}"?/g, `$1"${MARK}"`],
];

/** Passwords, tokens, keys, credentials in addresses. What is left keeps its lines. */
export function redact(text: string): string {
  return RULES.reduce((result, [pattern, replacement]) => result.replace(pattern, replacement), text);
}
