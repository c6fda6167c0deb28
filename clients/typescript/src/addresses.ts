/** Where services are: one address for all of them, or one for each. */

export const SERVICES = ["auth", "memory", "models", "orchestrator"] as const;
export type Service = (typeof SERVICES)[number];
export type Addresses = Readonly<Record<Service, string>>;

const DEFAULT_ADDRESS = "127.0.0.1:50051";
// Targets of gRPC have commas of their own.
const NAMED = /(?:^|,)\s*([a-z]+)=/;

/**
 * The address of each service, from `host:port`, `https://host:port` (means TLS) or a target of gRPC, from
 * `auth=host:port,memory=...,models=...,orchestrator=...`, or from an object of the same. Empty: COXSWAIN_ADDRESS, else
 * 127.0.0.1:50051. Throws a RangeError for a list that leaves a service out or names one that is not there.
 */
export function addressesOf(address: string | Addresses | undefined): Addresses {
  const given = address || process.env.COXSWAIN_ADDRESS || DEFAULT_ADDRESS;
  if (typeof given !== "string") {
    return given;
  }
  const [, ...parts] = given.split(NAMED);
  const named = new Map<string, string>();
  for (let index = 0; index < parts.length; index += 2) {
    named.set(parts[index] ?? "", (parts[index + 1] ?? "").trim());
  }
  const unknown = [...named.keys()].find((name) => !(SERVICES as readonly string[]).includes(name));
  if (unknown !== undefined) {
    throw new RangeError(`address: no service is called "${unknown}"; there are ${SERVICES.join(", ")}`);
  }
  const addressOf = (service: Service): string => {
    const found = named.size > 0 ? named.get(service) : given;
    if (!found) {
      throw new RangeError(`address: none for ${service}; add ${service}=host:port, or give one for all services`);
    }
    return found;
  };
  return {
    auth: addressOf("auth"),
    memory: addressOf("memory"),
    models: addressOf("models"),
    orchestrator: addressOf("orchestrator"),
  };
}
