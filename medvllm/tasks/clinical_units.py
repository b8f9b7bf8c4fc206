"""Names of laboratory analytes and vital signs, and units with their UCUM codes.

Bounds are the widest values that are still believable in any unit in use; a number outside them next to the
name is something else (a date, a dose, a hazard ratio). UCUM codes follow the Unified Code for Units of
Measure, https://ucum.org/ucum.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["ANALYTES", "CASED", "PAIRS", "UCUM", "VITALS", "Analyte"]


class Analyte(NamedTuple):
    """What is measured: its name, the believable range, and whether its values are whole numbers only."""

    name: str
    low: float
    high: float
    whole: bool = False


# name | low | high | surface forms, lower case, hyphens and full stops as spaces
_ANALYTES = """
sodium|90|200|sodium,na,na+,serum sodium
potassium|0.9|12|potassium,k,k+,serum potassium
chloride|50|160|chloride,cl,cl-
bicarbonate|2|60|bicarbonate,bicarb,hco3,co2,total co2,tco2
urea nitrogen|1|300|bun,urea nitrogen,blood urea nitrogen,urea,urean
creatinine|0.1|2500|creatinine,creat,cr,scr,serum creatinine
glucose|0.5|2000|glucose,gluc,glu,blood glucose,blood sugar,bg,fsbg,fbs,fingerstick,finger stick,\
fasting glucose,fasting blood sugar,random glucose,accucheck,bs
calcium|0.3|25|calcium,ca,ca++,ca2+,serum calcium,corrected calcium
ionized calcium|0.3|10|ionized calcium,ica,ionised calcium
magnesium|0.2|15|magnesium,mg,mg++,mg2+,mag
phosphate|0.2|25|phosphate,phosphorus,phos,po4
anion gap|-5|60|anion gap,ag,angap
osmolality|100|500|osmolality,osm,serum osm,serum osmolality,osmolarity
estimated GFR|1|200|gfr,egfr,glomerular filtration rate,estimated gfr,crcl,creatinine clearance
white blood cells|0|900000|wbc,wbcs,white count,white cell,white blood cell,white blood cells,leukocytes,\
leukocyte,white cells,wcc
red blood cells|0|1000|rbc,rbcs,red blood cell,red blood cells,red cell
hemoglobin|1|250|hemoglobin,haemoglobin,hgb,hb
hematocrit|0.05|80|hematocrit,haematocrit,hct,crit
platelets|0|5000000|platelets,platelet,plt,plts,plt ct,thrombocytes
mean corpuscular volume|30|160|mcv,mean corpuscular volume
mean corpuscular hemoglobin|5|60|mch
mean corpuscular hemoglobin concentration|10|500|mchc
red cell distribution width|5|60|rdw,rdw cv,rdw sd
mean platelet volume|3|25|mpv
reticulocytes|0|500|reticulocytes,reticulocyte,retic,retics
neutrophils|0|100000|neutrophils,neutrophil,neuts,neut,pmn,pmns,polys,segs,anc,absolute neutrophil
lymphocytes|0|500000|lymphocytes,lymphocyte,lymphs,lymph,lymp,absolute lymphocyte
monocytes|0|50000|monocytes,monocyte,monos
eosinophils|0|50000|eosinophils,eosinophil,eos
basophils|0|10000|basophils,basophil,basos
band neutrophils|0|100|bands,bandemia
CD4 cells|0|5000|cd4,cd4 cell,cd4+
AST|1|50000|ast,sgot,aspartate aminotransferase,aspartate transaminase
ALT|1|50000|alt,sgpt,alanine aminotransferase,alanine transaminase
alkaline phosphatase|3|10000|alkaline phosphatase,alk phos,alkphos,alp,alk phosphatase
gamma-glutamyl transferase|1|10000|ggt,gamma gt,gamma glutamyl transferase
bilirubin|0.05|900|bilirubin,bili,tbili,t bili,total bilirubin,total bili,tbil,totbili
direct bilirubin|0.01|600|direct bilirubin,dbili,d bili,direct bili,conjugated bilirubin
albumin|0.3|70|albumin,alb,serum albumin
total protein|1|150|total protein,tprot,tp
lipase|1|50000|lipase
amylase|1|20000|amylase
lactate dehydrogenase|10|50000|ldh,lactate dehydrogenase
creatine kinase|5|500000|ck,cpk,creatine kinase,creatine phosphokinase
CK-MB|0|2000|ckmb,ck mb
troponin|0|200000|troponin,trop,troponin i,troponin t,tropi,tropt,trop t,trop i,ctropnt,ctnt,ctni,\
hs troponin,high sensitivity troponin
BNP|0|70000|bnp,brain natriuretic peptide
NT-proBNP|0|200000|nt probnp,ntprobnp,probnp,pro bnp
D-dimer|0|200000|d dimer,ddimer
lactate|0.1|40|lactate,lactic acid
C-reactive protein|0|1000|crp,c reactive protein,hs crp
erythrocyte sedimentation rate|0|200|esr,sed rate,sedimentation rate,erythrocyte sedimentation rate
procalcitonin|0|1000|procalcitonin,pct
ferritin|1|200000|ferritin
iron|1|1000|serum iron,iron level
iron-binding capacity|20|1500|tibc
transferrin|0.3|1000|transferrin
vitamin B12|20|20000|vitamin b12,b12
folate|0.3|200|folate,folic acid level
vitamin D|1|300|vitamin d level,25 oh vitamin d,vitamin d 25 oh
ammonia|1|2000|ammonia,nh3
uric acid|0.1|1500|uric acid,urate
cholesterol|0.5|1500|cholesterol,total cholesterol,chol
LDL cholesterol|0.1|1000|ldl,ldl c,ldl cholesterol
HDL cholesterol|0.1|300|hdl,hdl c,hdl cholesterol
triglycerides|0.1|20000|triglycerides,triglyceride,tg,trigs
hemoglobin A1c|2|20|hba1c,a1c,hgba1c,hga1c,hemoglobin a1c,haemoglobin a1c,hgb a1c,hb a1c,glycated hemoglobin,\
glycosylated hemoglobin
TSH|0|500|tsh,thyroid stimulating hormone
free T4|0|200|free t4,ft4,t4,free thyroxine
free T3|0|50|free t3,ft3,t3
cortisol|0|3000|cortisol,am cortisol
parathyroid hormone|0|5000|pth,parathyroid hormone
PSA|0|10000|psa,prostate specific antigen
CEA|0|50000|cea
CA 125|0|100000|ca 125,ca125
CA 19-9|0|1000000|ca 19 9,ca19 9
alpha-fetoprotein|0|1000000|afp,alpha fetoprotein
beta-hCG|0|1000000|hcg,beta hcg,bhcg,b hcg
INR|0.5|30|inr
prothrombin time|5|200|pt,prothrombin time,protime
partial thromboplastin time|10|250|ptt,aptt,partial thromboplastin time
fibrinogen|10|2000|fibrinogen
pH|6.5|9|ph,arterial ph,venous ph,blood ph,urine ph
pCO2|5|200|pco2,paco2
pO2|10|700|po2,pao2
base excess|-40|40|base excess,base deficit
specific gravity|1|1.1|specific gravity,sp gr,spec grav,sg
digoxin level|0|20|digoxin level,dig level
vancomycin level|0|150|vanco trough,vancomycin trough,vanc trough,vancomycin level,vanco level
phenytoin level|0|150|phenytoin level,dilantin level
lithium level|0|10|lithium level
valproate level|0|500|valproate level,valproic acid level,depakote level
tacrolimus level|0|100|tacrolimus level,tacrolimus trough,prograf level,fk506 level
ejection fraction|5|90|ejection fraction,ef,lvef,left ventricular ejection fraction
FEV1|0.2|150|fev1
Glasgow coma scale|3|15|gcs,glasgow coma scale,glasgow coma score
Apgar score|0|10|apgar,apgars
MMSE|0|30|mmse
"""
_VITALS = """
heart rate|20|320|hr,heart rate,pulse,pulse rate,ventricular rate,p,hrt
respiratory rate|3|90|rr,respiratory rate,resp rate,respirations,respiration,resp,resps,r
temperature|25|112|temperature,temp,t,tmax,tm,tc,tcurrent,temp max,t max,oral temperature,t current,tcur
blood pressure|20|320|bp,blood pressure,b p,nibp,abp
systolic blood pressure|30|330|sbp,systolic,systolic blood pressure,systolic pressure,systolic bp
diastolic blood pressure|10|220|dbp,diastolic,diastolic blood pressure,diastolic pressure,diastolic bp
mean arterial pressure|10|220|map,mean arterial pressure
oxygen saturation|20|100|spo2,sao2,o2 sat,o2 sats,o2sat,o2sats,sat,sats,oxygen saturation,o2 saturation,\
pulse ox,oxygen sat,saturation,pox,satting,saturating,o2,pulse oximetry
body weight|0.3|1500|weight,wt,body weight
body height|10|300|height,ht
body mass index|8|120|bmi,body mass index
pain score|0|10|pain,pain score,pain scale,pain level
fraction of inspired oxygen|0.2|100|fio2
"""
_WHOLE = {
    "heart rate",
    "respiratory rate",
    "blood pressure",
    "systolic blood pressure",
    "diastolic blood pressure",
}


def _read(table: str) -> dict[str, Analyte]:
    found = {}
    for line in table.strip().splitlines():
        name, low, high, forms = line.split("|")
        analyte = Analyte(name, float(low), float(high), name in _WHOLE)
        for form in forms.split(","):
            found[form] = analyte
    return found


VITALS = _read(_VITALS)
ANALYTES = {**_read(_ANALYTES), **VITALS}

# Symbols that are also words, other units or letters. The text must show one of these spellings; in any other
# spelling a vital sign has to stand shortly before.
CASED: dict[str, frozenset[str]] = {
    "k": frozenset({"K"}),
    "p": frozenset(),
    "r": frozenset(),
    "t": frozenset({"T"}),
    "mg": frozenset({"Mg", "MG"}),
    "na": frozenset({"Na", "NA"}),
    "ca": frozenset({"Ca", "CA"}),
    "cl": frozenset({"Cl", "CL"}),
    "cr": frozenset({"Cr", "CR"}),
    "hr": frozenset({"HR"}),
    "pt": frozenset({"PT"}),
    "ag": frozenset({"AG"}),
    "tm": frozenset({"Tm", "TM"}),
    "tc": frozenset({"Tc", "TC"}),
    "map": frozenset({"MAP"}),
    "sg": frozenset({"SG", "sg"}),
    "bs": frozenset({"BS"}),
    "alt": frozenset({"ALT"}),
    "ast": frozenset({"AST", "ast"}),
    "ht": frozenset({"Ht", "HT", "ht"}),
    "ph": frozenset({"pH", "PH", "ph"}),
    "tp": frozenset({"TP"}),
    "mag": frozenset({"Mag", "MAG", "mag"}),
}

# Two values written with a slash: surface form -> the names of both.
PAIRS = {
    "ast/alt": ("AST", "ALT"),
    "alt/ast": ("ALT", "AST"),
    "sgot/sgpt": ("AST", "ALT"),
    "bun/cr": ("urea nitrogen", "creatinine"),
    "bun/creat": ("urea nitrogen", "creatinine"),
    "bun/creatinine": ("urea nitrogen", "creatinine"),
    "h/h": ("hemoglobin", "hematocrit"),
    "h&h": ("hemoglobin", "hematocrit"),
    "hgb/hct": ("hemoglobin", "hematocrit"),
    "na/k": ("sodium", "potassium"),
    "pt/inr": ("prothrombin time", "INR"),
}

# Units as written (lower case, micro sign as u) -> UCUM.
UCUM = {
    "mmol/l": "mmol/L", "meq/l": "meq/L", "mg/dl": "mg/dL", "g/dl": "g/dL", "gm/dl": "g/dL", "g/l": "g/L",
    "mg/l": "mg/L", "ng/ml": "ng/mL", "pg/ml": "pg/mL", "ug/ml": "ug/mL", "mcg/ml": "ug/mL", "ug/l": "ug/L",
    "mcg/l": "ug/L", "ng/l": "ng/L", "ng/dl": "ng/dL", "ug/dl": "ug/dL", "mcg/dl": "ug/dL", "pg/dl": "pg/dL",
    "umol/l": "umol/L", "nmol/l": "nmol/L", "pmol/l": "pmol/L", "mmol/mol": "mmol/mol", "mg/g": "mg/g",
    "mg/mmol": "mg/mmol", "pg": "pg", "fl": "fL", "iu/l": "[IU]/L", "u/l": "U/L", "units/l": "U/L",
    "iu/ml": "[IU]/mL", "u/ml": "U/mL", "miu/l": "m[IU]/L", "miu/ml": "m[IU]/mL", "uiu/ml": "u[IU]/mL",
    "mu/l": "mU/L", "mosm/kg": "mosm/kg", "mosm/l": "mosm/L", "mmhg": "mm[Hg]", "mm hg": "mm[Hg]",
    "cmh2o": "cm[H2O]", "cm h2o": "cm[H2O]", "kpa": "kPa", "bpm": "/min", "beats per minute": "/min",
    "beats/min": "/min", "beats/minute": "/min", "/min": "/min", "per minute": "/min", "breaths/min": "/min",
    "breaths per minute": "/min", "breaths/minute": "/min", "percent": "%", "%": "%", "k/ul": "10*3/uL",
    "k/mm3": "10*3/mm3", "k/cumm": "10*3/mm3", "k/mcl": "10*3/uL", "thou/ul": "10*3/uL", "th/ul": "10*3/uL",
    "10^3/ul": "10*3/uL", "10*3/ul": "10*3/uL", "10e3/ul": "10*3/uL", "x10^3/ul": "10*3/uL",
    "x10e3/ul": "10*3/uL", "x 10^3/ul": "10*3/uL", "10^3/mcl": "10*3/uL", "10^9/l": "10*9/L",
    "x10^9/l": "10*9/L", "x 10^9/l": "10*9/L", "10e9/l": "10*9/L", "x10e9/l": "10*9/L", "10*9/l": "10*9/L",
    "10^12/l": "10*12/L", "x10^12/l": "10*12/L", "x 10^12/l": "10*12/L", "10^6/ul": "10*6/uL",
    "x10^6/ul": "10*6/uL", "10*6/ul": "10*6/uL", "x10e6/ul": "10*6/uL", "m/ul": "10*6/uL",
    "mil/ul": "10*6/uL",
    "/ul": "/uL", "/mm3": "/mm3", "/cumm": "/mm3", "cells/ul": "{cells}/uL", "cells/mm3": "{cells}/mm3",
    "cells/mcl": "{cells}/uL", "mm/hr": "mm/h", "mm/h": "mm/h", "ml/min": "mL/min",
    "ml/min/1.73m2": "mL/min/{1.73_m2}", "ml/min/1.73 m2": "mL/min/{1.73_m2}",
    "ml/min/1.73m^2": "mL/min/{1.73_m2}", "sec": "s", "secs": "s", "seconds": "s", "second": "s", "kg": "kg",
    "kgs": "kg", "kilograms": "kg", "lb": "[lb_av]", "lbs": "[lb_av]", "pounds": "[lb_av]", "kg/m2": "kg/m2",
    "kg/m^2": "kg/m2", "kg/m²": "kg/m2", "cm": "cm", "in": "[in_i]", "inches": "[in_i]", "°c": "Cel",
    "° c": "Cel",
    "c": "Cel", "celsius": "Cel", "degrees c": "Cel", "degrees celsius": "Cel", "deg c": "Cel", "ºc": "Cel",
    "°f": "[degF]", "° f": "[degF]", "f": "[degF]", "fahrenheit": "[degF]", "degrees f": "[degF]",
    "ºf": "[degF]",
    "degrees fahrenheit": "[degF]", "deg f": "[degF]", "/hpf": "/[HPF]", "per hpf": "/[HPF]",
    "copies/ml": "{copies}/mL", "mg/24h": "mg/(24.h)", "g/24h": "g/(24.h)", "mg/24 h": "mg/(24.h)",
    "g/24 h": "g/(24.h)", "mg/24hr": "mg/(24.h)", "iu/dl": "[IU]/dL", "g": "g", "k": "10*3/uL",
}  # fmt: skip
